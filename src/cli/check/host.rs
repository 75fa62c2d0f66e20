//! Limits of this host that all watches share.

use super::report::Report;
use crate::cli::paint::count;

/// Part of a limit, in percent, beyond which it is likely to run out: others use it too.
const TIGHT: u64 = 80;

/// Compares what the watches need of inotify with what one user may have.
pub(super) fn inotify(watches: u64, folders: u64, report: &mut Report) {
    if watches == 0 {
        return;
    }
    report.subject("inotify");
    for (name, needed, thing) in [("max_user_watches", folders, "folder"), ("max_user_instances", watches, "instance")]
    {
        let path = format!("/proc/sys/fs/inotify/{name}");
        let limit = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let Some(limit) = limit else {
            report.ok(format_args!("fs.inotify.{name} cannot be read here"));
            continue;
        };
        if needed.saturating_mul(100) > limit.saturating_mul(TIGHT) {
            report.warning(format_args!(
                "fs.inotify.{name} is {limit} and {needed} are needed, shared with other programs of this user: raise \
                 it with sysctl, or those folders are polled that find no room"
            ));
        } else {
            report.ok(format_args!("{} of at most {limit} (fs.inotify.{name})", count(needed, thing)));
        }
    }
}
