//! What a server has whichever way its bytes go: its site, the stage it is in, its access log, and what Prometheus is told.

use super::Stage;
use super::control::Control;
use super::http::{Counts, Policy};
use super::log::{Log, LogPlan, LogQueue};
use super::metrics::{Metrics, Text};
use super::site::{Site, SiteError};
use super::tree::TreePlan;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// The folders.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The access log.
    #[error("opening the access log {0}: {1}\n  give --access-log a file that can be written, or -")]
    Log(String, io::Error),
    /// The socket for Prometheus.
    #[error(
        "listening for Prometheus at {0}: {1}\n  give --metrics an address of this machine and a port that is free"
    )]
    Metrics(SocketAddr, io::Error),
}

/// The part of a server that its owner talks to.
#[derive(Debug)]
pub(in crate::serve) struct Front {
    pub(in crate::serve) control: Arc<Control>,
    log: Option<Log>,
    metrics: Option<Metrics>,
}

impl Front {
    /// Opens the folders and the access log, and starts the librarian.
    pub(in crate::serve) fn open(
        tree: TreePlan,
        policy: Policy,
        log: Option<&LogPlan>,
    ) -> Result<Self, FrontError> {
        let control = Control::new(Site::open(tree, policy)?);
        let log = log.map(|log| {
            let name = log.path.as_ref().map_or_else(|| "-".into(), |path| path.display().to_string());
            Log::open(log).map_err(|error| FrontError::Log(name, error))
        });
        Ok(Self { control: Arc::new(control), log: log.transpose()?, metrics: None })
    }

    /// For one worker.
    pub(in crate::serve) fn log(&self) -> Option<LogQueue> {
        self.log.as_ref().map(Log::queue)
    }

    /// Tells numbers to Prometheus, as long as this lives: those of HTTP, what `render` writes, and those of the log.
    pub(in crate::serve) fn tell(
        &mut self,
        address: SocketAddr,
        counts: impl Fn() -> Counts + Send + 'static,
        render: impl Fn(&mut Text) + Send + 'static,
    ) -> Result<SocketAddr, FrontError> {
        let queue = self.log();
        let whole = move |text: &mut Text| {
            text.http(&counts());
            render(text);
            if let Some(queue) = &queue {
                text.log(queue.counts());
            }
        };
        let metrics = Metrics::open(address, whole).map_err(|error| FrontError::Metrics(address, error))?;
        let address = metrics.address();
        self.metrics = Some(metrics);
        Ok(address)
    }

    /// Brings the end nearer.
    pub(in crate::serve) fn enter(&self, stage: Stage) {
        self.control.enter(stage);
    }

    /// Opens the folders anew, takes up another policy, and opens the access log anew. After an error everything stays as it was.
    pub(in crate::serve) fn reload(&self, tree: TreePlan, policy: Policy) -> Result<(), FrontError> {
        self.control.exchange(Site::open(tree, policy)?);
        if let Some(log) = &self.log {
            log.reopen();
        }
        Ok(())
    }
}
