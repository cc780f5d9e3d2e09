//! PID 1 of a guest. See `lab::guest`.

fn main() {
    lab::guest::boot::main()
}
