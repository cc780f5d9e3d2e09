//! A server over the kernel's sockets allocates nothing for a request once it is warm, by whatever engine; and for an upload
//! something at its ends, and nothing for its pieces.
#![deny(unsafe_code)]

mod counting;

use dataplane::serve::Stage;
use dataplane::serve::http::{Limits, Policy};
use dataplane::serve::kernel::{KernelPlan, KernelServers, UploadPlan};
use dataplane::serve::tree::TreePlan;
use drivers::kernel::{EnginePlan, Method, Receive};
use lab::server::Tree;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

/// Of all threads: the clients here have their memory beforehand, and the librarian, who looks round once a second, allocates a
/// little each time.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
}

/// What the librarian may take meanwhile, and a vector that grows once more. Of what each request or piece costs there would be
/// thousands.
const LITTLE: u64 = 100;

fn server(tree: &Tree, method: Method, way: Receive) -> KernelServers {
    let plan = KernelPlan {
        method,
        engine: EnginePlan::default(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        cpus: Vec::new(),
        tree: TreePlan::new(tree.path()),
        policy: Policy::default(),
        limits: Limits::default(),
        connections: 100,
        keepalive: None,
        quantum: 1 << 20,
        upload: Some(UploadPlan { way, limit: 1 << 30 }),
        log: None,
    };
    KernelServers::start(&plan).expect("a server")
}

/// Asks so many times over one connection, and reads as many bytes as the answers have.
fn ask(stream: &mut TcpStream, request: &[u8], times: u32, answer: usize) {
    let mut room = [0; 16 << 10];
    for _ in 0..times {
        stream.write_all(request).expect("sent");
        let mut left = answer;
        while left > 0 {
            let most = left.min(room.len());
            let got = stream.read(&mut room[..most]).expect("an answer");
            assert!(got > 0, "{left} bytes are missing");
            left -= got;
        }
    }
}

/// The length of the answer to a request, head and all.
fn length(address: SocketAddr, request: &str) -> usize {
    let mut stream = TcpStream::connect(address).expect("connects");
    let last = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    stream.write_all(last.as_bytes()).expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    assert!(bytes.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&bytes));
    bytes.len() - "Connection: close\r\n".len()
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// One test, since allocations are counted for all of them.
#[test]
fn a_warm_server_allocates_nothing_for_a_request() {
    let tree = Tree::new().expect("a folder");
    for (name, bytes) in [("small", 1000), ("large", 300_000)] {
        tree.file(name, bytes).expect("a file");
    }
    for method in Method::ALL {
        let servers = server(&tree, method, Receive::Splice);
        let mut stream = TcpStream::connect(servers.address()).expect("connects");
        for (name, times) in [("small", 3000), ("large", 500)] {
            let request = format!("GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n");
            let answer = length(servers.address(), &request);
            ask(&mut stream, request.as_bytes(), 100, answer);
            let count = allocations(|| ask(&mut stream, request.as_bytes(), times, answer));
            assert!(count < LITTLE, "{method}: {count} allocations for {times} answers of {name}");
        }
        servers.enter(Stage::Resetting);
        drop(servers);
    }
    for way in Receive::ALL {
        let servers = server(&tree, Method::Sendfile, way);
        let mut stream = TcpStream::connect(servers.address()).expect("connects");
        let upload = |bytes: usize| {
            let head = format!("PUT /stored HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n");
            [head.into_bytes(), vec![b'x'; bytes]].concat()
        };
        let (small, large) = (upload(100 << 10), upload(16 << 20));
        // New, and from then on in the place of it.
        length(servers.address(), "PUT /stored HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let mut count = |request: &[u8], bytes: usize| {
            allocations(|| {
                for _ in 0..20 {
                    stream.write_all(request).expect("sent");
                    let mut room = [0; 1024];
                    let got = stream.read(&mut room).expect("an answer");
                    assert!(room[..got].starts_with(b"HTTP/1.1 204"), "{way}: {bytes} bytes");
                }
            })
        };
        count(&small, 100 << 10);
        let (few, many) = (count(&small, 100 << 10), count(&large, 16 << 20));
        assert!(few > 0, "allocations are counted");
        assert!(many < few + LITTLE, "{way}: {few} allocations for 20 small bodies, {many} for 20 of 16 MiB");
        drop(servers);
    }
}
