//! Limits and rules of this host that all watches share.

use super::report::Report;
use crate::cli::paint::count;

/// Part of a limit, in percent, beyond which it is likely to run out: others use it too.
const TIGHT: u64 = 80;

/// Says whether this host lets people link files into an inbox that are not theirs to read.
///
/// A hard link cannot be told from any other file: it is ingested, with what the daemon may read. That a dropper gets
/// nothing sent that only the daemon may read is the kernel's rule alone.
pub(super) fn hard_links(report: &mut Report) {
    let path = "/proc/sys/fs/protected_hardlinks";
    if std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0") {
        report.subject("hard links");
        report.warning(
            "fs.protected_hardlinks is 0: whoever may write into a watched folder can link a file there that only the \
             daemon may read, and have it sent: set it to 1 with sysctl",
        );
    }
}

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
