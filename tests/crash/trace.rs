//! The system calls of a run that matter to what a power cut leaves, as `strace -f -y` wrote them down.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What a call does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Bytes into a file; what of them is text can be searched for.
    Write(PathBuf, String),
    /// `fsync` or `fdatasync` of a file or directory.
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    /// A new name, of a file or directory.
    Make(PathBuf),
    /// The first word to a server.
    Connect,
}

/// A call that succeeded, and the lines of the trace between which it ran. Two calls came one after the other only if
/// one had ended before the other began.
#[derive(Debug, Clone)]
pub struct Call {
    pub act: Act,
    pub began: usize,
    pub ended: usize,
}

/// What strace is to write down.
pub const CALLS: &str = "trace=open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,\
                         copy_file_range,sendfile,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,link,\
                         linkat,mkdir,mkdirat,connect";

/// The calls of a trace, in the order in which they began.
pub fn parse(trace: &str) -> Vec<Call> {
    let mut unfinished: HashMap<&str, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(head) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(process, (number, head.trim_end().to_owned()));
            continue;
        }
        let (began, whole) = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let Some((entered, head)) = unfinished.remove(process) else { continue };
                let (_, end) = resumed.split_once(" resumed>").unwrap_or_else(|| panic!("cannot read {line:?}"));
                (entered, head + end)
            }
            None => (number, rest.to_owned()),
        };
        calls.extend(act(&whole).map(|act| Call { act, began, ended: number }));
    }
    calls.sort_by_key(|call| call.began);
    calls
}

/// What a whole line says; `None` for what failed and for what does not matter.
fn act(line: &str) -> Option<Act> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    // A connection that does not wait is under way with an error.
    if name == "connect" {
        return arguments.contains("AF_INET").then_some(Act::Connect);
    }
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let first = arguments.split(", ").next()?;
    match name {
        "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "ftruncate" | "fallocate" | "copy_file_range"
        | "sendfile" => {
            let target = described(if name == "copy_file_range" { arguments.split(", ").nth(2)? } else { first })?;
            Some(Act::Write(target, arguments.to_owned()))
        }
        "fsync" | "fdatasync" => Some(Act::Sync(described(first)?)),
        "open" | "openat" | "openat2" | "creat" => {
            let made = name == "creat" || arguments.contains("O_CREAT");
            made.then(|| named(&mut arguments.split(", "))).flatten().map(Act::Make)
        }
        "mkdir" | "mkdirat" => named(&mut arguments.split(", ")).map(Act::Make),
        "unlink" | "unlinkat" => named(&mut arguments.split(", ")).map(Act::Unlink),
        "rename" | "renameat" | "renameat2" => {
            let mut arguments = arguments.split(", ");
            Some(Act::Rename(named(&mut arguments)?, named(&mut arguments)?))
        }
        // Only filesystems that cannot rename without replacing see one; the traces are not made on such.
        "link" | "linkat" => panic!("an unexpected hard link: {line}"),
        _ => None,
    }
}

/// The file behind a descriptor: `13</a/b>`.
fn described(argument: &str) -> Option<PathBuf> {
    let (_, path) = argument.split_once('<')?;
    let path = path.strip_suffix('>')?;
    path.starts_with('/').then(|| path.into())
}

/// The next path: `"/a/b"`, or a directory's descriptor and a name in it.
fn named<'a>(arguments: &mut impl Iterator<Item = &'a str>) -> Option<PathBuf> {
    let quoted = |argument: &'a str| argument.strip_prefix('"')?.strip_suffix('"').map(Path::new);
    let first = arguments.next()?;
    match quoted(first) {
        Some(path) => Some(path.to_owned()),
        None => Some(described(first)?.join(quoted(arguments.next()?)?)),
    }
}

#[test]
fn calls_are_read_with_their_paths_and_with_when_they_ran() {
    let calls = parse(
        "7 openat(AT_FDCWD</cwd>, \"/s/new\", O_WRONLY|O_CREAT|O_CLOEXEC, 0600) = 3</s/new>\n\
         7 openat(AT_FDCWD</cwd>, \"/s/old\", O_RDONLY) = 3</s/old>\n\
         7 pwrite64(13</s/db>, \"a, \\1 = \\\"b\\\" > c\", 12, 0 <unfinished ...>\n\
         8 fsync(4</s>)                            = 0\n\
         7 <... pwrite64 resumed>)                 = 12\n\
         7 fdatasync(5</s/db>) = -1 EIO (Input/output error)\n\
         8 renameat2(4</s>, \"a\", 5</t>, \"b\", RENAME_NOREPLACE) = 0\n\
         8 unlinkat(4</s>, \"c\", 0) = -1 ENOENT (No such file or directory)\n\
         8 write(9<socket:[123]>, \"x\", 1) = 1\n\
         8 mkdir(\"/s/d\", 0777) = 0\n\
         8 connect(9<TCP:[1]>, {sa_family=AF_INET, sin_port=htons(80)}, 16) = -1 EINPROGRESS (now)\n",
    );
    let ran: Vec<_> = calls.iter().map(|call| (call.began, call.ended)).collect();
    assert_eq!(ran, [(0, 0), (2, 4), (3, 3), (6, 6), (9, 9), (10, 10)]);
    let acts: Vec<_> = calls.into_iter().map(|call| call.act).collect();
    let write = Act::Write("/s/db".into(), r#"13</s/db>, "a, \1 = \"b\" > c", 12, 0"#.into());
    let expected = [
        Act::Make("/s/new".into()),
        write,
        Act::Sync("/s".into()),
        Act::Rename("/s/a".into(), "/t/b".into()),
        Act::Make("/s/d".into()),
        Act::Connect,
    ];
    assert_eq!(acts, expected);
}
