//! AF_XDP: our own rings over a socket, and the XDP program that feeds them.

pub use program::{
    AttachError, Cause, Endpoint, Filter, FilterError, MAX_ENDPOINTS, Mode, PortProgram, Program, Sink,
    SinkProgram, Step, Traffic, Verdicts,
};

mod program;
