//! A kernel's image and modules, decompressed: QEMU boots a plain ELF image by its PVH entry, without a boot loader.

use super::image::Image;
use super::kit::{Kit, succeeded};
use crate::Outcome;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const XZ: &[u8] = b"\xfd7zXZ\0";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// The uncompressed image, made once.
pub(super) fn vmlinux(kit: &Kit) -> Outcome<PathBuf> {
    let path = kit.kernel.join("vmlinux");
    if !path.exists() {
        let packed = std::fs::read(packed(kit).ok_or("vmlinuz in the kernel's package: there is none")?)?;
        let unfinished = path.with_extension(format!("unfinished-{}", std::process::id()));
        std::fs::write(&unfinished, decompressed(payload(&packed)?)?)?;
        std::fs::rename(&unfinished, &path)?;
    }
    Ok(path)
}

/// `/boot/vmlinuz-VERSION`, or beside the modules since Debian has the two in packages apart.
fn packed(kit: &Kit) -> Option<PathBuf> {
    let entries = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut places = entries(&kit.kernel.join("boot"));
    places.extend(entries(&kit.kernel.join("usr/lib/modules")).iter().map(|folder| folder.join("vmlinuz")));
    places.into_iter().find(|path| path.is_file() && path.to_string_lossy().contains("/vmlinuz"))
}

/// The compressed kernel inside a bzImage (Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length).
fn payload(image: &[u8]) -> Outcome<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| u32::from_le_bytes(bytes) as usize).ok_or("a kernel image that is too short")
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err("a kernel image without a header".into());
    }
    let sectors = usize::from(image[0x1f1]);
    let begin = (sectors + 1) * 512 + word(0x248)?;
    // The last four bytes are the decompressed size, which is not the compressor's own (arch/x86/boot/compressed/Makefile).
    let end = begin + word(0x24c)?.saturating_sub(4);
    Ok(image.get(begin..end).ok_or("a kernel image whose payload lies outside")?)
}

/// By what it begins with; as it is, when that is neither of the two that Debian uses.
fn decompressed(bytes: &[u8]) -> Outcome<Vec<u8>> {
    let tool = if bytes.starts_with(XZ) {
        "xz"
    } else if bytes.starts_with(ZSTD) {
        "zstd"
    } else {
        return Ok(bytes.to_vec());
    };
    let mut child = Command::new(tool).arg("-dcq").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("asked for a pipe")?;
    let output = std::thread::scope(|scope| {
        // An early end of the tool breaks the pipe; its status tells.
        scope.spawn(move || stdin.write_all(bytes));
        child.wait_with_output()
    })?;
    if !output.status.success() {
        succeeded(tool, output)?;
        return Err("unreachable: a failure is an error".into());
    }
    Ok(output.stdout)
}

/// Puts modules and all that they depend on into the image: `/guest/modules/NAME.ko`, and `NAME.needs` with the names that
/// must be loaded before it, one a line, in order.
pub(super) fn put_modules(image: &mut Image, kit: &Kit, names: &[&str]) -> Outcome<()> {
    let mut files = BTreeMap::new();
    for root in ["lib/modules", "usr/lib/modules"] {
        find(&kit.kernel.join(root), &mut files);
    }
    let mut read = BTreeMap::new();
    for name in names {
        let mut order = Vec::new();
        closure(&name.replace('-', "_"), &files, &mut read, &mut order)?;
        let Some((module, before)) = order.split_last() else { continue };
        image.file(&format!("/guest/modules/{module}.needs"), before.join("\n").as_bytes(), 0o644);
    }
    for (name, module) in &read {
        if let Some(module) = module {
            image.file(&format!("/guest/modules/{name}.ko"), module, 0o644);
        }
    }
    Ok(())
}

/// Depth first: what a module depends on stands before it in `order`. One that is in the kernel itself has no file.
fn closure(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    read: &mut BTreeMap<String, Option<Vec<u8>>>,
    order: &mut Vec<String>,
) -> Outcome<()> {
    if order.iter().any(|known| known == name) {
        return Ok(());
    }
    if !read.contains_key(name) {
        let content = files.get(name).map(|path| decompressed(&std::fs::read(path)?)).transpose()?;
        read.insert(name.to_owned(), content);
    }
    if let Some(content) = &read[name] {
        for needed in depends(content) {
            closure(&needed, files, read, order)?;
        }
        order.push(name.to_owned());
    }
    Ok(())
}

/// `depends=a,b` of a module's `.modinfo` section.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// All modules below a folder, by name: `virtio_net` of `virtio_net.ko.xz`.
fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            find(&path, files);
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
}

/// Loads a module of the image in the guest, and what it needs.
pub(super) fn load(name: &str) -> Outcome<()> {
    let name = name.replace('-', "_");
    let list = format!("/guest/modules/{name}.needs");
    // In the kernel itself, or not asked for when the guest was described: the second is told by what fails next.
    let Ok(before) = std::fs::read_to_string(&list) else { return Ok(()) };
    for name in before.lines().chain([name.as_str()]) {
        let file = File::open(format!("/guest/modules/{name}.ko"))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(format!("loading the module {name}: {error}").into()),
        }
    }
    Ok(())
}
