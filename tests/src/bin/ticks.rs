//! Prints how fast this machine's time stamp counter counts, in kHz. QEMU hands the counter to guests as it is, and a guest that
//! must find out by itself on a busy machine is wrong at times, by ten times and more. See `lab::guest`.

use std::time::{Duration, Instant};

fn main() {
    let (begin, first) = reading();
    std::thread::sleep(Duration::from_millis(100));
    let (end, last) = reading();
    println!("{}", u128::from(last - first) * 1_000_000 / end.duration_since(begin).as_nanos());
}

/// The counter, and when it stood so: of many readings the one that least came between.
fn reading() -> (Instant, u64) {
    let one = || {
        let before = Instant::now();
        let ticks = ticks();
        (before.elapsed(), before, ticks)
    };
    let best = (1..100).map(|_| one()).fold(one(), |best, next| if next.0 < best.0 { next } else { best });
    (best.1, best.2)
}

#[cfg(target_arch = "x86_64")]
fn ticks() -> u64 {
    // SAFETY: *reads*: the instruction changes nothing and is never refused to a process of Linux's, unless it asks for that.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// What guests are given on other machines is QEMU's own business.
#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> u64 {
    0
}
