//! `ringway forward` as a test sees it: started, ready, ended, and its report read.

use crate::process::{Ended, Ringway};
use crate::{Outcome, TestLab};
use dataplane::lab::{Namespace, Side};
use serde_json::Value;
use std::time::Duration;

/// How long opening may take: a queue whose last owner died a moment ago is waited for, and test machines are slow.
const OPENING: Duration = Duration::from_secs(15);

/// How long ending may take.
const ENDING: Duration = Duration::from_secs(10);

/// A forwarder that is ready for frames. Dropped while it runs, it is killed.
#[derive(Debug)]
pub struct Forwarder(Ringway);

impl Forwarder {
    /// Starts `ringway forward` between the two ports of a laboratory, by `driver`, with `options` behind each port
    /// (`,ring=64`) and `args` behind that; waits until it is ready.
    ///
    /// # Errors
    /// When it ends or stays silent instead; the sentence contains all that it printed.
    pub fn between(lab: &TestLab, driver: &str, options: &str, args: &[&str]) -> Outcome<Self> {
        let ports = Side::BOTH.map(|side| format!("{driver}:{}{options}", side.port()));
        let mut all = vec!["--port", &ports[0], "--port", &ports[1]];
        all.extend(args);
        Self::start(lab.middle(), &all)
    }

    /// Starts `ringway forward ARGS` inside a namespace and waits until it is ready.
    ///
    /// # Errors
    /// As [`between`](Self::between).
    pub fn start(namespace: &Namespace, args: &[&str]) -> Outcome<Self> {
        let mut all = vec!["forward", "--format", "json"];
        all.extend(args);
        let mut ringway = Ringway::start(namespace, &all)?;
        ringway.ready("\"event\":\"ready\"", OPENING)?;
        Ok(Self(ringway))
    }

    /// The process.
    #[must_use]
    pub fn process(&mut self) -> &mut Ringway {
        &mut self.0
    }

    /// Interrupts it, and returns its report once the books have been looked at.
    ///
    /// # Errors
    /// When it does not end, does not end well, or its books are not in order.
    pub fn finish(self) -> Outcome<Report> {
        self.0.interrupt()?;
        let report = self.report()?;
        if report.code != Some(0) {
            return Err(format!("ended with {:?}: {report:?}", report.code).into());
        }
        Ok(report)
    }

    /// Interrupts it, and returns all that it printed, line by line, once the books have been looked at.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn lines(self) -> Outcome<Vec<Value>> {
        self.0.interrupt()?;
        let ended = self.0.wait(ENDING)?;
        Report::of(&ended)?;
        ended.json_lines()
    }

    /// Waits for its end, whatever its exit code, and returns its report once the books have been looked at.
    ///
    /// # Errors
    /// When it does not end, or its books are not in order.
    pub fn report(self) -> Outcome<Report> {
        Report::of(&self.0.wait(ENDING)?)
    }
}

/// What a forwarder printed as JSON.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it opened.
    pub ready: Value,
    /// How it ended.
    pub end: Value,
    /// Logs and error sentences.
    pub stderr: String,
    /// Its exit code; `None` when a signal killed it.
    pub code: Option<i32>,
}

impl Report {
    /// Reads the lines of a session that has ended by itself.
    ///
    /// # Errors
    /// When an event is missing, it panicked, or its books are not in order.
    pub fn of(ended: &Ended) -> Outcome<Self> {
        let lines = ended.json_lines()?;
        let event = |name: &str| {
            let found = lines.iter().find(|line| line["event"] == name);
            found.cloned().ok_or_else(|| format!("no event {name:?}: {ended:?}"))
        };
        let report = Self {
            ready: event("ready")?,
            end: event("end")?,
            stderr: ended.stderr.clone(),
            code: ended.status.code(),
        };
        if report.stderr.contains("panicked") {
            return Err(format!("it panicked: {}", report.stderr).into());
        }
        report.in_order()?;
        Ok(report)
    }

    /// The books balance by the program's own word and by our own sum, and every frame is home.
    fn in_order(&self) -> Outcome<()> {
        let book = |name| self.book(name);
        let came = book("received") + book("allocated") + book("cut");
        let went =
            ["transmitted", "delivered", "unsendable", "discarded", "held"].map(book).iter().sum::<u64>();
        let arrived = book("handed_over") == book("taken_over");
        let frames = &self.end["frames"];
        let home = frames["total"].as_u64() > Some(0) && frames["home"] == frames["total"];
        if self.end["balance"] == true && came == went && arrived && home {
            return Ok(());
        }
        Err(format!("the books are not in order: {}; {}", self.end, self.stderr).into())
    }

    /// One sum of the books.
    ///
    /// # Panics
    /// When the report has no such number.
    #[must_use]
    pub fn book(&self, name: &str) -> u64 {
        self.end["books"][name].as_u64().unwrap_or_else(|| panic!("no books.{name}: {}", self.end))
    }

    /// One counter of a port, all its queues together.
    ///
    /// # Panics
    /// When the report has no such port or counter.
    #[must_use]
    pub fn port(&self, port: usize, counter: &str) -> u64 {
        self.queues(port, counter).iter().sum()
    }

    /// One counter of each queue of a port.
    ///
    /// # Panics
    /// When the report has no such port or counter.
    #[must_use]
    pub fn queues(&self, port: usize, counter: &str) -> Vec<u64> {
        let queues = self.end["ports"][port]["queues"].as_array();
        let queues = queues.unwrap_or_else(|| panic!("no port {port}: {}", self.end));
        let number = |queue: &Value| queue[counter].as_u64();
        let numbers: Option<Vec<u64>> = queues.iter().map(number).collect();
        numbers.unwrap_or_else(|| panic!("no {counter} at port {port}: {}", self.end))
    }

    /// One counter of all ports.
    #[must_use]
    pub fn both(&self, counter: &str) -> u64 {
        self.port(0, counter) + self.port(1, counter)
    }

    /// A counter of the file server's.
    ///
    /// # Panics
    /// When the report has no such number.
    #[must_use]
    pub fn served(&self, name: &str) -> u64 {
        self.end["serve"][name].as_u64().unwrap_or_else(|| panic!("no serve.{name}: {}", self.end))
    }

    /// Packets discarded for a reason; 0 when it never occurred.
    #[must_use]
    pub fn discarded(&self, reason: &str) -> u64 {
        self.end["discarded"][reason].as_u64().unwrap_or(0)
    }
}
