//! Act three: the same files by three ways, side by side, as `ringway compare` does with all of them.

use super::{DemoPlan, Step, steps_before};
use crate::compare::method::Method;
use crate::compare::plan::{ComparePlan, ScatterGather};
use crate::compare::{CompareError, Report, run};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The shortest run of a method.
const LEAST: Duration = Duration::from_millis(600);

const METHODS: [&str; 3] = ["bypass", "sendfile", "read-write"];
const SIZES: [u64; 2] = [1 << 10, 1 << 20];

/// How many steps the act has.
pub(super) fn steps() -> u32 {
    u32::try_from(METHODS.len() * SIZES.len()).unwrap_or(u32::MAX)
}

/// One short round. A signal is no error of this act: whoever asked for it looks for it.
pub(super) fn act(
    plan: &DemoPlan,
    watch: &mut dyn FnMut(&Step),
    stop: &AtomicBool,
) -> Result<Report, String> {
    let default = ComparePlan::of_this_program().map_err(|error| error.to_string())?;
    let compare = ComparePlan {
        program: plan.program.clone(),
        methods: METHODS.iter().filter_map(|name| Method::named(name)).collect(),
        sizes: SIZES.to_vec(),
        scatter_gather: ScatterGather::On,
        rounds: 1,
        // Each run is timed for so long, and counted for half of it.
        // So long that each client of the slowest has its answer on a machine that does something else, too.
        time: (plan.time / 3).max(LEAST),
        ..default
    };
    let (before, of) = (steps_before(plan), steps_before(plan) + steps());
    let mut step = |step: &crate::compare::Step| {
        let number = before + 1 + u32::try_from(step.done).unwrap_or(u32::MAX - before - 1);
        watch(&Step { what: step.what.clone(), number, of });
    };
    run(&compare, &mut step, stop).map_err(|error: CompareError| error.to_string())
}
