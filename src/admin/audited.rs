//! An audit because an operator asks for one. It changes nothing.

use std::sync::Arc;

use axum::http::StatusCode;

use super::Desk;
use super::api::Failure;
use super::wire::audit::{Audited, Finding, Findings, Watch};
use crate::audit::{self, Audit, Pace, Subject};
use crate::blocking::blocking;
use crate::show::{Shown, escaped};

/// Compares journal, folders, results and spool now. One at a time: whoever asks meanwhile is told so.
pub async fn audit(desk: &Arc<Desk>) -> Result<Audited, Failure> {
    let Ok(turn) = desk.auditing.clone().try_lock_owned() else {
        return Err(Failure::new(StatusCode::CONFLICT, "an audit is under way already; ask again when it is over"));
    };
    let audit = Audit {
        journal: desk.journal.clone(),
        identity: desk.identity.clone(),
        spool: desk.spool.clone(),
        subjects: desk.running().folders.iter().map(Subject::of_folder).collect(),
        pace: Pace::ASKED_FOR,
    };
    let report = blocking(move || {
        let report = audit.run();
        // Also when nobody waits for the answer any more.
        drop(turn);
        report
    })
    .await?;
    let watches = report.watches.iter().map(|watch| Watch {
        name: escaped(&watch.watch).to_string(),
        records: watch.records,
        inputs: watch.inputs,
        results: watch.results,
        in_flight: watch.in_flight,
        differences: told(&watch.differences),
        notes: told(&watch.notes),
        unknown: told(&watch.unknown),
    });
    Ok(Audited { differences: report.differences(), watches: watches.collect(), spool: told(&report.spool) })
}

fn told(found: &audit::Findings) -> Findings {
    let named = found
        .named
        .iter()
        .map(|finding| Finding { path: Shown(&finding.path).to_string(), what: escaped(&finding.what).to_string() });
    Findings { named: named.collect(), total: found.total, unconfirmed: found.unconfirmed }
}
