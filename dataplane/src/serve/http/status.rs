//! Status codes with their phrases and small bodies, and why a request was refused.

macro_rules! statuses {
    ($($code:literal $phrase:literal,)+) => {
        /// The first line of a response.
        pub(crate) const fn line(status: u16) -> &'static [u8] {
            match status {
                $($code => concat!("HTTP/1.1 ", $code, " ", $phrase, "\r\n").as_bytes(),)+
                // RFC 9112 section 4: the phrase may be empty, the space before it not.
                _ => b"HTTP/1.1 500 \r\n",
            }
        }

        /// The page that says so, when there is no other.
        pub(crate) const fn page(status: u16) -> &'static [u8] {
            match status {
                $($code => concat!(
                    "<!doctype html><html lang=en><meta charset=utf-8><title>", $code, " ", $phrase,
                    "</title><h1>", $code, " ", $phrase, "</h1></html>\n"
                ).as_bytes(),)+
                _ => b"",
            }
        }

        /// All that we send, in ascending order.
        pub const STATUSES: &[u16] = &[$($code),+];
    };
}

statuses! {
    200 "OK",
    201 "Created",
    204 "No Content",
    206 "Partial Content",
    301 "Moved Permanently",
    304 "Not Modified",
    400 "Bad Request",
    403 "Forbidden",
    404 "Not Found",
    405 "Method Not Allowed",
    406 "Not Acceptable",
    408 "Request Timeout",
    409 "Conflict",
    411 "Length Required",
    412 "Precondition Failed",
    413 "Content Too Large",
    414 "URI Too Long",
    415 "Unsupported Media Type",
    416 "Range Not Satisfiable",
    417 "Expectation Failed",
    421 "Misdirected Request",
    429 "Too Many Requests",
    431 "Request Header Fields Too Large",
    500 "Internal Server Error",
    501 "Not Implemented",
    503 "Service Unavailable",
    505 "HTTP Version Not Supported",
    507 "Insufficient Storage",
}

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident = $status:literal $name:literal,)+) => {
        /// Why bytes were not taken as a request. The answer ends the connection, because where the next request
        /// would begin is in doubt. Each has a stable name, for counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Refusal { $($(#[doc = $doc])+ $variant,)+ }

        impl Refusal {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The status of the answer.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

refusals! {
    /// The first line is not method, target and version with one space between (RFC 9112 section 3).
    RequestLine = 400 "request-line",
    /// A version that is not 1.0 or 1.1 (RFC 9110 section 15.6.6).
    Version = 505 "version",
    /// A line ends in LF without CR. RFC 9112 section 2.2 lets us take it; two readers that differ about it can be
    /// played against each other, so we do not.
    BareLineFeed = 400 "bare-line-feed",
    /// A target in none of the four forms, or in one that its method must not have (RFC 9112 section 3.2).
    Target = 400 "target",
    /// A path that no file can have: `..`, NUL, an encoded slash or backslash, a control character, bytes that are not
    /// UTF-8, a bad percent-encoding.
    Path = 400 "path",
    /// A target longer than the limit (RFC 9112 section 3).
    TargetTooLong = 414 "target-too-long",
    /// No `Host` in a request of version 1.1, two of them, or one that is no host (RFC 9112 section 3.2).
    Host = 400 "host",
    /// The target's scheme is not `http`, so it is not for this port (RFC 9110 section 7.4).
    Misdirected = 421 "misdirected",
    /// A field line that is none: folded, with whitespace before the colon, with control characters (RFC 9112 section 5).
    Field = 400 "field",
    /// More bytes or fields in the head than the limit (RFC 6585 section 5).
    HeadTooLarge = 431 "head-too-large",
    /// `Content-Length` that is not one number, or is there twice (RFC 9112 section 6.3).
    Length = 400 "content-length",
    /// `Transfer-Encoding` that does not end in `chunked`, is there twice, or in version 1.0 (RFC 9112 section 6.1).
    TransferCoding = 400 "transfer-encoding",
    /// A transfer coding besides `chunked` (RFC 9112 section 6.1).
    UnknownTransferCoding = 501 "unknown-transfer-coding",
    /// Both `Content-Length` and `Transfer-Encoding`: how smuggling begins (RFC 9112 section 6.3).
    BothLengths = 400 "both-lengths",
    /// A chunk that is none (RFC 9112 section 7.1). Comes after the request was answered: there is no second answer.
    Chunk = 400 "chunk",
    /// A chunked body longer than we throw away. Comes after the request was answered: there is no second answer.
    BodyTooLarge = 400 "body-too-large",
    /// The head did not come in time (RFC 9110 section 15.5.9).
    Timeout = 408 "timeout",
    /// More connections of one address than the limit (RFC 6585 section 4).
    TooManyConnections = 429 "too-many-connections",
}
