//! AF_XDP: our own rings over a socket, and the XDP program that feeds them.
