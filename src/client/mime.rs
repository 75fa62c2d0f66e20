//! The MIME type of a file by its name: a pinned copy of Python's built-in table.
//!
//! Pure. It never reads `/etc/mime.types`: the same name must mean the same type on every host, and the same as for the
//! official SDK, which asks Python's `mimetypes.guess_type`. The table and the rules are those of
//! `mimetypes.MimeTypes().guess_type(name)` (strict) of Python 3.11, quirks included:
//!
//! - an encoding is taken off first and then forgotten (`a.csv.gz` is `text/csv`, a lone `a.gz` is unknown);
//! - encodings are case-sensitive (`a.csv.Z` but not `a.csv.GZ`), the other suffixes are not;
//! - leading dots begin no suffix (`.html` is unknown);
//! - a name is read as a URL: what stands before the first `:` is a scheme and dropped (`x:.txt` is unknown), and
//!   `data:...,...` is what the URL itself says, or `text/plain`.

/// The type of a file that no rule knows.
pub const DEFAULT: &str = "application/octet-stream";

/// The type of a file with this base name, else [`DEFAULT`].
pub fn of(name: &str) -> &str {
    guess(name).unwrap_or(DEFAULT)
}

/// What Python would guess for this name.
fn guess(name: &str) -> Option<&str> {
    let (scheme, rest) = split_scheme(name);
    if scheme.is_some_and(|scheme| scheme.to_lowercase() == "data") {
        let (head, _) = rest.split_once(',')?;
        let media_type = head.split(';').next().unwrap_or(head);
        let usable = media_type.contains('/') && !media_type.contains('=');
        return Some(if usable { media_type } else { "text/plain" });
    }
    let (base, suffix) = split_suffix(rest);
    let expanded;
    let (base, suffix) = match find(&SUFFIXES, &suffix.to_lowercase()) {
        Some(longer) => {
            expanded = format!("{base}{longer}");
            split_suffix(&expanded)
        }
        None => (base, suffix),
    };
    let suffix = if ENCODINGS.contains(&suffix) { split_suffix(base).1 } else { suffix };
    find(&TYPES, &suffix.to_lowercase())
}

fn find(table: &[(&str, &'static str)], key: &str) -> Option<&'static str> {
    table.binary_search_by_key(&key, |row| row.0).ok().map(|at| table[at].1)
}

/// As `urllib.parse._splittype`: the text before the first `:`, unless it is empty or holds a `/`.
fn split_scheme(name: &str) -> (Option<&str>, &str) {
    match name.split_once(':') {
        Some((scheme, rest)) if !scheme.is_empty() && !scheme.contains('/') => (Some(scheme), rest),
        _ => (None, name),
    }
}

/// As `posixpath.splitext`: the suffix with its dot; leading dots of the last part belong to the base.
fn split_suffix(path: &str) -> (&str, &str) {
    let part = path.rfind('/').map_or(0, |at| at + 1);
    match path[part..].rfind('.') {
        Some(dot) if !path[part..part + dot].bytes().all(|byte| byte == b'.') => path.split_at(part + dot),
        _ => (path, ""),
    }
}

/// Suffixes that only wrap another type.
static ENCODINGS: [&str; 5] = [".Z", ".br", ".bz2", ".gz", ".xz"];

/// Suffixes that stand for two; sorted.
static SUFFIXES: [(&str, &str); 6] = [
    (".svgz", ".svg.gz"),
    (".taz", ".tar.gz"),
    (".tbz2", ".tar.bz2"),
    (".tgz", ".tar.gz"),
    (".txz", ".tar.xz"),
    (".tz", ".tar.gz"),
];

/// Lower-case suffix and type; sorted by suffix.
#[rustfmt::skip]
static TYPES: [(&str, &str); 149] = [
    (".3g2", "audio/3gpp2"),
    (".3gp", "audio/3gpp"),
    (".3gpp", "audio/3gpp"),
    (".3gpp2", "audio/3gpp2"),
    (".a", "application/octet-stream"),
    (".aac", "audio/aac"),
    (".adts", "audio/aac"),
    (".ai", "application/postscript"),
    (".aif", "audio/x-aiff"),
    (".aifc", "audio/x-aiff"),
    (".aiff", "audio/x-aiff"),
    (".ass", "audio/aac"),
    (".au", "audio/basic"),
    (".avi", "video/x-msvideo"),
    (".avif", "image/avif"),
    (".bat", "text/plain"),
    (".bcpio", "application/x-bcpio"),
    (".bin", "application/octet-stream"),
    (".bmp", "image/bmp"),
    (".c", "text/plain"),
    (".cdf", "application/x-netcdf"),
    (".cpio", "application/x-cpio"),
    (".csh", "application/x-csh"),
    (".css", "text/css"),
    (".csv", "text/csv"),
    (".dll", "application/octet-stream"),
    (".doc", "application/msword"),
    (".dot", "application/msword"),
    (".dvi", "application/x-dvi"),
    (".eml", "message/rfc822"),
    (".eps", "application/postscript"),
    (".etx", "text/x-setext"),
    (".exe", "application/octet-stream"),
    (".gif", "image/gif"),
    (".gtar", "application/x-gtar"),
    (".h", "text/plain"),
    (".h5", "application/x-hdf5"),
    (".hdf", "application/x-hdf"),
    (".heic", "image/heic"),
    (".heif", "image/heif"),
    (".htm", "text/html"),
    (".html", "text/html"),
    (".ico", "image/vnd.microsoft.icon"),
    (".ief", "image/ief"),
    (".jpe", "image/jpeg"),
    (".jpeg", "image/jpeg"),
    (".jpg", "image/jpeg"),
    (".js", "application/javascript"),
    (".json", "application/json"),
    (".ksh", "text/plain"),
    (".latex", "application/x-latex"),
    (".loas", "audio/aac"),
    (".m1v", "video/mpeg"),
    (".m3u", "application/vnd.apple.mpegurl"),
    (".m3u8", "application/vnd.apple.mpegurl"),
    (".man", "application/x-troff-man"),
    (".me", "application/x-troff-me"),
    (".mht", "message/rfc822"),
    (".mhtml", "message/rfc822"),
    (".mif", "application/x-mif"),
    (".mjs", "application/javascript"),
    (".mov", "video/quicktime"),
    (".movie", "video/x-sgi-movie"),
    (".mp2", "audio/mpeg"),
    (".mp3", "audio/mpeg"),
    (".mp4", "video/mp4"),
    (".mpa", "video/mpeg"),
    (".mpe", "video/mpeg"),
    (".mpeg", "video/mpeg"),
    (".mpg", "video/mpeg"),
    (".ms", "application/x-troff-ms"),
    (".n3", "text/n3"),
    (".nc", "application/x-netcdf"),
    (".nq", "application/n-quads"),
    (".nt", "application/n-triples"),
    (".nws", "message/rfc822"),
    (".o", "application/octet-stream"),
    (".obj", "application/octet-stream"),
    (".oda", "application/oda"),
    (".opus", "audio/opus"),
    (".p12", "application/x-pkcs12"),
    (".p7c", "application/pkcs7-mime"),
    (".pbm", "image/x-portable-bitmap"),
    (".pdf", "application/pdf"),
    (".pfx", "application/x-pkcs12"),
    (".pgm", "image/x-portable-graymap"),
    (".pl", "text/plain"),
    (".png", "image/png"),
    (".pnm", "image/x-portable-anymap"),
    (".pot", "application/vnd.ms-powerpoint"),
    (".ppa", "application/vnd.ms-powerpoint"),
    (".ppm", "image/x-portable-pixmap"),
    (".pps", "application/vnd.ms-powerpoint"),
    (".ppt", "application/vnd.ms-powerpoint"),
    (".ps", "application/postscript"),
    (".pwz", "application/vnd.ms-powerpoint"),
    (".py", "text/x-python"),
    (".pyc", "application/x-python-code"),
    (".pyo", "application/x-python-code"),
    (".qt", "video/quicktime"),
    (".ra", "audio/x-pn-realaudio"),
    (".ram", "application/x-pn-realaudio"),
    (".ras", "image/x-cmu-raster"),
    (".rdf", "application/xml"),
    (".rgb", "image/x-rgb"),
    (".roff", "application/x-troff"),
    (".rtx", "text/richtext"),
    (".sgm", "text/x-sgml"),
    (".sgml", "text/x-sgml"),
    (".sh", "application/x-sh"),
    (".shar", "application/x-shar"),
    (".snd", "audio/basic"),
    (".so", "application/octet-stream"),
    (".src", "application/x-wais-source"),
    (".srt", "text/plain"),
    (".sv4cpio", "application/x-sv4cpio"),
    (".sv4crc", "application/x-sv4crc"),
    (".svg", "image/svg+xml"),
    (".swf", "application/x-shockwave-flash"),
    (".t", "application/x-troff"),
    (".tar", "application/x-tar"),
    (".tcl", "application/x-tcl"),
    (".tex", "application/x-tex"),
    (".texi", "application/x-texinfo"),
    (".texinfo", "application/x-texinfo"),
    (".tif", "image/tiff"),
    (".tiff", "image/tiff"),
    (".tr", "application/x-troff"),
    (".trig", "application/trig"),
    (".tsv", "text/tab-separated-values"),
    (".txt", "text/plain"),
    (".ustar", "application/x-ustar"),
    (".vcf", "text/x-vcard"),
    (".vtt", "text/vtt"),
    (".wasm", "application/wasm"),
    (".wav", "audio/x-wav"),
    (".webm", "video/webm"),
    (".webmanifest", "application/manifest+json"),
    (".wiz", "application/msword"),
    (".wsdl", "application/xml"),
    (".xbm", "image/x-xbitmap"),
    (".xlb", "application/vnd.ms-excel"),
    (".xls", "application/vnd.ms-excel"),
    (".xml", "text/xml"),
    (".xpdl", "application/xml"),
    (".xpm", "image/x-xpixmap"),
    (".xsl", "application/xml"),
    (".xwd", "image/x-xwindowdump"),
    (".zip", "application/zip"),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// Made by `mimetypes.MimeTypes().guess_type(name)[0]` of Python 3.11.7.
    #[rustfmt::skip]
    const TRICKY: [(&str, Option<&str>); 99] = [
        ("", None),
        (".", None),
        ("..", None),
        ("a", None),
        ("a.", None),
        (".html", None),
        ("..html", None),
        ("...a.html", Some("text/html")),
        (".a.html", Some("text/html")),
        ("a.txt", Some("text/plain")),
        ("a.TXT", Some("text/plain")),
        ("a.Txt", Some("text/plain")),
        ("a.csv.gz", Some("text/csv")),
        ("a.csv.GZ", None),
        ("a.csv.Z", Some("text/csv")),
        ("a.csv.z", None),
        ("a.gz", None),
        (".gz", None),
        ("a.tgz", Some("application/x-tar")),
        ("a.TGZ", Some("application/x-tar")),
        ("a.taz", Some("application/x-tar")),
        ("a.tz", Some("application/x-tar")),
        ("a.tbz2", Some("application/x-tar")),
        ("a.txz", Some("application/x-tar")),
        ("a.tar.gz", Some("application/x-tar")),
        ("a.tar.xz", Some("application/x-tar")),
        ("a.tar", Some("application/x-tar")),
        ("a.svgz", Some("image/svg+xml")),
        ("a.SVGZ", Some("image/svg+xml")),
        ("a.svg.br", Some("image/svg+xml")),
        ("a.svgz.gz", None),
        ("a.csv.gz.gz", None),
        ("a.gz.csv", Some("text/csv")),
        ("a.pdf", Some("application/pdf")),
        ("a.docx", None),
        ("a.doc", Some("application/msword")),
        ("a.xlsx", None),
        ("a.md", None),
        ("a.json", Some("application/json")),
        ("a.xml", Some("text/xml")),
        ("a.js", Some("application/javascript")),
        ("a.mjs", Some("application/javascript")),
        ("a.webp", None),
        ("a.webm", Some("video/webm")),
        ("a.jpg", Some("image/jpeg")),
        ("a.JPEG", Some("image/jpeg")),
        ("a.jpe", Some("image/jpeg")),
        ("a.pict", None),
        ("a.rtf", None),
        ("a.xul", None),
        ("a.mid", None),
        ("a.wav", Some("audio/x-wav")),
        ("a.3gp", Some("audio/3gpp")),
        ("a.m3u8", Some("application/vnd.apple.mpegurl")),
        ("a.yaml", None),
        ("a.toml", None),
        ("a.rs", None),
        ("a.py", Some("text/x-python")),
        ("a.eml", Some("message/rfc822")),
        ("a.mht", Some("message/rfc822")),
        ("a b.txt", Some("text/plain")),
        ("a\tb.txt", Some("text/plain")),
        ("a\n.txt", Some("text/plain")),
        ("x.txt\n", None),
        ("\u{e4}.pdf", Some("application/pdf")),
        ("a.pdf\u{e4}", None),
        ("a.\u{ff34}\u{ff38}\u{ff34}", None),
        ("a.\u{212a}ey", None),
        ("a.txt ", None),
        ("a:b.txt", Some("text/plain")),
        ("x:.txt", None),
        ("x.tar:gz", None),
        (":a.txt", Some("text/plain")),
        (":.txt", Some("text/plain")),
        ("a.txt:", None),
        ("a:b:c.csv", Some("text/csv")),
        ("data:a,b.pdf", Some("text/plain")),
        ("data:a.pdf", None),
        ("data:,x", Some("text/plain")),
        ("DATA:a,b.pdf", Some("text/plain")),
        ("data:a;b,c.html", Some("text/plain")),
        ("data:a=b,c", Some("text/plain")),
        ("http:a.html", Some("text/html")),
        ("data:image/png,x", Some("image/png")),
        ("data:image/png;base64,x.txt", Some("image/png")),
        ("dir/a.txt", Some("text/plain")),
        ("dir.txt/a", None),
        ("dir/.txt", None),
        ("dir/x:.txt", Some("text/plain")),
        ("a.~txt", None),
        ("a.txt~", None),
        ("a?.html", Some("text/html")),
        ("a#x.html", Some("text/html")),
        ("report.2024.csv", Some("text/csv")),
        ("a.tar.GZ", None),
        ("a.Tgz.gz", None),
        ("a.tgz.tgz", Some("application/x-tar")),
        ("a.\u{130}", None),
        ("a.htm\u{17f}", None),
    ];

    #[test]
    fn tricky_names_are_guessed_as_python_does() {
        for (name, expected) in TRICKY {
            assert_eq!(guess(name), expected, "{name:?}");
        }
    }

    #[test]
    fn the_tables_are_sorted_and_lower_case() {
        assert!(TYPES.is_sorted_by(|a, b| a.0 < b.0) && SUFFIXES.is_sorted_by(|a, b| a.0 < b.0));
        assert!(TYPES.iter().all(|(suffix, _)| suffix.starts_with('.') && *suffix == suffix.to_lowercase()));
        for (suffix, expected) in TYPES {
            assert_eq!(of(&format!("a{suffix}")), expected);
            assert_eq!(of(&format!("a{}", suffix.to_uppercase())), expected);
        }
    }

    #[test]
    fn an_unknown_name_is_bytes() {
        assert_eq!(of("mystery"), DEFAULT);
    }

    /// Asks this host's Python, if it is the pinned version: other versions have other tables.
    #[test]
    fn python_itself_agrees() {
        const SCRIPT: &str = "import mimetypes,sys,json\n\
            assert sys.version_info[:2]==(3,11)\n\
            m=mimetypes.MimeTypes()\n\
            print(json.dumps([[m.guess_type(n)[0] for n in json.load(sys.stdin)],sorted(m.types_map[True])]))";
        let mut names: Vec<String> = TRICKY.iter().map(|(name, _)| (*name).to_owned()).collect();
        for (suffix, _) in TYPES {
            for name in [format!("a{suffix}"), format!("b{suffix}.gz"), format!("c{suffix}.Z"), format!("{suffix}.bz2")]
            {
                names.push(name);
            }
        }
        let child = Command::new("python3.11")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut child) = child else { return };
        let mut stdin = child.stdin.take().unwrap();
        let written = stdin.write_all(serde_json::to_string(&names).unwrap().as_bytes());
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        if written.is_err() || !output.status.success() {
            return;
        }
        let (types, suffixes): (Vec<Option<String>>, Vec<String>) = serde_json::from_slice(&output.stdout).unwrap();
        for (name, expected) in names.iter().zip(types) {
            assert_eq!(guess(name), expected.as_deref(), "{name:?}");
        }
        assert_eq!(TYPES.iter().map(|(suffix, _)| *suffix).collect::<Vec<_>>(), suffixes);
    }
}
