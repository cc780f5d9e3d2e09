//! What is served: a folder of a small site and one large file, made for the demonstration and removed after it.

use crate::lab::scratch::Scratch;
use crate::lab::traffic::{Content, Hash};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The large file.
const LARGE: (&str, usize) = ("64-mib.bin", 64 << 20);

/// The others, beside the page that shows them.
const SMALL: [(&str, usize); 8] = [
    ("style.css", 6 << 10),
    ("script.js", 23 << 10),
    ("icon.png", 900),
    ("logo.png", 4 << 10),
    ("picture-1.jpg", 31 << 10),
    ("picture-2.jpg", 48 << 10),
    ("picture-3.jpg", 77 << 10),
    ("picture-4.jpg", 120 << 10),
];

/// What the folder's name begins with.
const NAME: &str = "ringway-demo";

/// A file that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// As it is asked for.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) hash: u64,
}

/// A folder of files. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Site {
    scratch: Scratch,
    /// A page and what it shows.
    pub(super) pages: Vec<Page>,
    pub(super) large: Page,
}

impl Site {
    /// Writes all files into a folder of its own among the temporary ones, and removes those of processes that were killed.
    ///
    /// # Errors
    /// When the disk is full or may not be written; says where.
    pub(super) fn write() -> Result<Self, String> {
        let failed = |folder: &Path, error: io::Error| {
            format!("writing the files to serve to {}: {error}", folder.display())
        };
        let scratch =
            Scratch::new(&std::env::temp_dir(), NAME).map_err(|(folder, error)| failed(&folder, error))?;
        let empty = Page { path: String::new(), bytes: 0, hash: 0 };
        // From here on it is removed whatever happens.
        let mut site = Self { scratch, pages: Vec::new(), large: empty };
        site.fill().map_err(|error| failed(site.folder(), error))?;
        Ok(site)
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut content = Content::new(0x5345_5256);
        let html = front_page();
        self.pages.push(put(self.scratch.path(), "index.html", "/", |file| file(html.as_bytes()))?);
        for (name, bytes) in SMALL {
            self.pages.push(put_random(self.scratch.path(), name, bytes, &mut content)?);
        }
        self.large = put_random(self.scratch.path(), LARGE.0, LARGE.1, &mut content)?;
        Ok(())
    }

    /// Where the files are.
    pub(super) fn folder(&self) -> &Path {
        self.scratch.path()
    }
}

fn front_page() -> String {
    let mut html = "<!DOCTYPE html><meta charset=utf-8><title>Ringway</title>\
                    <link rel=stylesheet href=style.css><script src=script.js></script>\n"
        .to_owned();
    for (name, _) in SMALL.iter().filter(|(name, _)| !name.starts_with('s')) {
        html.push_str(&format!("<p><img src={name} alt={name}>\n"));
    }
    html
}

fn put_random(folder: &Path, name: &str, bytes: usize, content: &mut Content) -> io::Result<Page> {
    let mut buffer = vec![0; bytes.min(1 << 20)];
    put(folder, name, &format!("/{name}"), |file| {
        let mut rest = bytes;
        while rest > 0 {
            let part = rest.min(buffer.len());
            content.fill(&mut buffer[..part]);
            file(&buffer[..part])?;
            rest -= part;
        }
        Ok(())
    })
}

/// Writes one file with what `write` gives, and hashes it on the way.
fn put(
    folder: &Path,
    name: &str,
    path: &str,
    write: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
) -> io::Result<Page> {
    let (mut file, mut hash, mut bytes) = (File::create_new(folder.join(name))?, Hash::default(), 0);
    write(&mut |part| {
        hash.add(part);
        bytes += part.len() as u64;
        file.write_all(part)
    })?;
    Ok(Page { path: path.to_owned(), bytes, hash: hash.value() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_on_the_disk_as_its_hashes_say_and_goes_with_its_value() {
        let site = Site::write().expect("a folder");
        let folder = site.folder().to_owned();
        assert_eq!(site.pages.len(), 1 + SMALL.len());
        assert_eq!(site.large.bytes, 64 << 20);
        for page in &site.pages {
            let name = if page.path == "/" { "/index.html" } else { &page.path };
            let content = std::fs::read(folder.join(&name[1..])).expect("a file");
            let mut hash = Hash::default();
            hash.add(&content);
            assert_eq!((content.len() as u64, hash.value()), (page.bytes, page.hash), "{name}");
        }
        drop(site);
        assert!(!folder.exists());
    }
}
