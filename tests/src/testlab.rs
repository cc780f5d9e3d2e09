//! A laboratory of one test's own.

use crate::Outcome;
use dataplane::lab::{Lab, LabPlan, Namespace, Side};
use std::ops::Deref;
use std::process::Command;

/// A private [`Lab`] (`rwt-PID-NUMBER`): tests run beside each other, and nothing of the machine's own network is touched.
#[derive(Debug)]
pub struct TestLab(Lab);

impl TestLab {
    /// One queue, MTU 1500, IPv4 and IPv6.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up() -> Outcome<Self> {
        Self::with(|_| {})
    }

    /// As [`up`](Self::up), after `change` has had its way with the plan.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn with(change: impl FnOnce(&mut LabPlan)) -> Outcome<Self> {
        let mut plan = LabPlan::private("rwt");
        change(&mut plan);
        Ok(Self(Lab::up(&plan)?))
    }

    /// Joins the two ports by a bridge of the kernel's: a forwarder known to work, for tests of everything else.
    ///
    /// # Errors
    /// The command that failed and what it printed.
    pub fn bridge(&self) -> Outcome<()> {
        self.ip("link add bridge0 type bridge mcast_snooping 0")?;
        self.ip("link set bridge0 up")?;
        for side in Side::BOTH {
            self.ip(&format!("link set {} master bridge0", side.port()))?;
        }
        Ok(())
    }

    /// `ip ARGS` at the middle, where the ports are.
    ///
    /// # Errors
    /// The command and what it printed.
    pub fn ip(&self, args: &str) -> Outcome<()> {
        Self::run(self.middle(), "ip", args)
    }

    /// Any command inside one namespace of this laboratory, words separated by spaces.
    ///
    /// # Errors
    /// The command and what it printed.
    pub fn run(namespace: &Namespace, program: &str, args: &str) -> Outcome<()> {
        let mut command: Command = namespace.command(program);
        let output = command.args(args.split_whitespace()).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("`{program} {args}`: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

impl Deref for TestLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}
