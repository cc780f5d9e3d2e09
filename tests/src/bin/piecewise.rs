//! A server that sends a file in the plainest way, so that what it costs can be computed by hand: one thread a connection, one read of
//! the request, one write of the head, and for each 64 KiB one read of the file and one write of the piece.
//!
//! It takes the arguments of `ringway serve --engine`, so that `compare` runs it in place of ringway; `load` is ringway's own.
#![forbid(unsafe_code)]

use lab::{Outcome, Ringway};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PIECE: usize = 64 << 10;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|command| command == "load") {
        // Only an error comes back.
        return Err(Command::new(Ringway::program()?).args(args).exec().into());
    }
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name).map(|at| at + 1);
        at.and_then(|at| args.get(at)).cloned().ok_or_else(|| format!("{name} is missing in {args:?}"))
    };
    let root = PathBuf::from(value("--root")?);
    let listener = TcpListener::bind(value("--listen")?)?;
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT])?;
    println!("{{\"event\":\"ready\"}}");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let root = root.clone();
            std::thread::spawn(move || serve(stream, &root));
        }
    });
    let _ = signals.forever().next();
    println!("{{\"event\":\"end\",\"serve\":{{\"copied_bytes\":0}}}}");
    Ok(())
}

/// Until the client goes.
fn serve(mut stream: TcpStream, root: &Path) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut file): (_, Option<(String, File, u64)>) = (vec![0; PIECE], None);
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let request = String::from_utf8_lossy(&buffer[..length]);
        let path = request.split(' ').nth(1).ok_or("no request")?.to_owned();
        if file.as_ref().is_none_or(|(known, ..)| *known != path) {
            let opened = File::open(root.join(path.trim_start_matches('/')))?;
            let bytes = opened.metadata()?.len();
            file = Some((path, opened, bytes));
        }
        let Some((_, file, bytes)) = &file else { continue };
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes())?;
        let mut at = 0;
        while at < *bytes {
            let read = file.read_at(&mut buffer, at)?;
            stream.write_all(&buffer[..read])?;
            at += read as u64;
        }
    }
}
