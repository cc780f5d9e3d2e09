//! The ways to send a file, and what of each is known before it is measured.

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `ringway serve --port DRIVER:..`: our own TCP.
    Bypass {
        /// The driver, as it begins a port on the command line.
        driver: &'static str,
    },
    /// `ringway serve --engine NAME`: the kernel's TCP.
    Engine,
    /// nginx, with these directives.
    Nginx {
        /// Lines of its configuration.
        directives: &'static str,
    },
}

/// How the bytes of a body get from the page cache or the disk to the socket, as far as the kernel's source says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `read` copies them from the page cache into a buffer.
    Read,
    /// They stay where they are: mapped, or spliced.
    InPlace,
    /// The disk's DMA writes them into a buffer, for files of at least so many bytes; `read` takes shorter ones.
    Direct {
        /// Bytes of the shortest file.
        from: u64,
    },
}

/// How they get from there into packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// `write` or `send` copies them into packets.
    Write,
    /// Packets refer to the pages (`MSG_SPLICE_PAGES`); a device without scatter-gather makes the kernel copy
    /// (`tcp_sendmsg_locked` in net/ipv4/tcp.c).
    Splice,
    /// Packets refer to the caller's pages, and the kernel says afterwards whether it copied them after all.
    ZeroCopy,
    /// A device's transmit ring.
    Ring,
}

/// One way to send a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Method {
    /// Its name on the command line and in JSON.
    pub name: &'static str,
    /// What it is, in words.
    pub words: &'static str,
    /// Who serves.
    pub way: Way,
    /// Where the bytes come from.
    pub source: Source,
    /// Where they go to.
    pub sink: Sink,
}

const fn engine(name: &'static str, words: &'static str, source: Source, sink: Sink) -> Method {
    Method { name, words, way: Way::Engine, source, sink }
}

/// nginx reads what is shorter than one of its `output_buffers` through the page cache, `directio` or not
/// (`ngx_output_chain_align_file_buf`, 1.22).
const OUTPUT_BUFFER: u64 = 64 << 10;

/// All of them, in the order of the table.
pub const METHODS: [Method; 15] = [
    Method {
        name: "bypass",
        words: "AF_XDP and a TCP of our own",
        way: Way::Bypass { driver: "af-xdp" },
        source: Source::InPlace,
        sink: Sink::Ring,
    },
    Method {
        name: "bypass-packet",
        words: "AF_PACKET rings and a TCP of our own",
        way: Way::Bypass { driver: "packet" },
        source: Source::InPlace,
        sink: Sink::Ring,
    },
    engine("read-write", "read into a buffer, write it", Source::Read, Sink::Write),
    engine("mmap-write", "map the file, write the mapping", Source::InPlace, Sink::Write),
    engine("sendfile", "sendfile", Source::InPlace, Sink::Splice),
    engine("splice", "splice the file to a pipe, the pipe to the socket", Source::InPlace, Sink::Splice),
    engine(
        "vmsplice",
        "map the file, vmsplice to a pipe, splice to the socket",
        Source::InPlace,
        Sink::Splice,
    ),
    engine("zerocopy", "map the file, send it with MSG_ZEROCOPY", Source::InPlace, Sink::ZeroCopy),
    engine("uring", "io_uring: read into registered buffers, send", Source::Read, Sink::Write),
    engine("uring-splice", "io_uring: splice through a pipe", Source::InPlace, Sink::Splice),
    engine("uring-zerocopy", "io_uring: read into registered buffers, SEND_ZC", Source::Read, Sink::ZeroCopy),
    engine("direct-aio", "O_DIRECT reads by Linux AIO, write", Source::Direct { from: 1 }, Sink::Write),
    engine("direct-uring", "O_DIRECT reads by io_uring, send", Source::Direct { from: 1 }, Sink::Write),
    Method {
        name: "nginx-sendfile",
        words: "nginx with sendfile on, tcp_nopush on",
        way: Way::Nginx {
            directives: "sendfile on; tcp_nopush on; open_file_cache max=4096 inactive=60s; open_file_cache_valid 60s;",
        },
        source: Source::InPlace,
        sink: Sink::Splice,
    },
    Method {
        name: "nginx-aio",
        words: "nginx with aio threads, directio 4k",
        // Without open_file_cache: requests that share a file then turn O_DIRECT off and on under each other, and nginx's reads fail
        // with EINVAL (1.22, two requests at once for one file above `directio`).
        way: Way::Nginx {
            directives: "sendfile off; aio threads; directio 4k; directio_alignment 4k; output_buffers 2 64k;",
        },
        source: Source::Direct { from: OUTPUT_BUFFER },
        sink: Sink::Write,
    },
];

impl Method {
    /// By its name; `af-xdp` is another one for `bypass`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = if name == "af-xdp" { "bypass" } else { name };
        METHODS.iter().find(|method| method.name == name)
    }

    /// Whether the kernel's TCP sends.
    #[must_use]
    pub const fn is_kernel(&self) -> bool {
        !matches!(self.way, Way::Bypass { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_found() {
        for method in &METHODS {
            assert_eq!(Method::named(method.name), Some(method));
        }
        assert_eq!(Method::named("af-xdp").map(|method| method.name), Some("bypass"));
        assert_eq!(Method::named("sendfil"), None);
    }
}
