//! What is asked for, over what kind of wire.

/// One row of the benchmark.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) file: &'static str,
    pub(crate) bytes: f64,
    pub(crate) connections: u32,
    pub(crate) mtu: u32,
    /// TSO and GSO at both ends.
    pub(crate) segmentation: bool,
    /// The client's receiving is done on the client's CPU.
    pub(crate) split: bool,
    pub(crate) client: Client,
}

/// Who asks, on CPU 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// wrk: the kernel's TCP.
    Wrk,
    /// `ringway load` over af-xdp: our own TCP, which can ask for more than wrk on the same core.
    Load,
}

const SMALL: Case = Case {
    name: "1 KiB",
    file: "1k.bin",
    bytes: 1024.0,
    connections: 64,
    mtu: 1500,
    segmentation: true,
    split: false,
    client: Client::Wrk,
};

const LARGE: Case = Case {
    name: "1 MiB, 1500",
    file: "1m.bin",
    bytes: 1_048_576.0,
    connections: 16,
    mtu: 1500,
    segmentation: false,
    split: false,
    client: Client::Wrk,
};

/// All of them. `TSO` says that nginx's kernel may hand 64 KiB to the veth at once, which AF_XDP cannot.
pub(crate) const CASES: &[Case] = &[
    SMALL,
    Case { name: "1 KiB, split", split: true, ..SMALL },
    Case { name: "1 KiB, load", client: Client::Load, ..SMALL },
    Case { name: "1 KiB, load, split", client: Client::Load, split: true, ..SMALL },
    LARGE,
    Case { name: "1 MiB, 1500, split", split: true, ..LARGE },
    Case { name: "1 MiB, 9000", mtu: 9000, ..LARGE },
    Case { name: "1 MiB, 9000, split", mtu: 9000, split: true, ..LARGE },
    Case { name: "1 MiB, 1500, TSO", segmentation: true, ..LARGE },
    // For the threshold between copying and gathering, only when asked for: --case piece --only copy,gather
    Case { name: "piece 128", file: "128.bin", bytes: 128.0, ..SMALL },
    Case { name: "piece 512", file: "512.bin", bytes: 512.0, ..SMALL },
    Case { name: "piece 900", file: "900.bin", bytes: 900.0, ..SMALL },
    Case { name: "piece 4k, 9000", file: "4k.bin", bytes: 4096.0, mtu: 9000, ..SMALL },
];
