//! What an operator is told about a file that is wrong.

use super::super::{Config, Environment, MAX_PROBLEMS};
use super::{MINIMAL, good, invalid, one_problem, origin, with};

#[test]
fn an_unknown_key_is_an_error_with_its_place_and_the_known_ones() {
    one_problem(&with("[server]", "timeout = \"1s\""), "server.timeout", "timeout", "unknown key");
    one_problem(&with("[metrics]", ""), "metrics", "[metrics]", "unknown key");
    one_problem(&with("[[watch]]", "setle = \"2s\""), "watch.setle", "setle", "`settle`");
    one_problem(&with("[watch.results]", "txt = true"), "watch.results.txt", "txt", "unknown key");
    one_problem(&with("[pipelines.invoices]", "key = 1"), "pipelines.invoices.key", "key = 1", "unknown key");
}

#[test]
fn every_wrong_value_is_named_with_its_key_and_line() {
    for (section, line, key, words) in [
        ("[server]", "connect_timeout = 10", "server.connect_timeout", "a duration in quotes"),
        ("[server]", "request_timeout = \"10 parsecs\"", "server.request_timeout", "is not a duration"),
        ("[server]", "start_timeout = \"0s\"", "server.start_timeout", "must be from"),
        ("[server]", "drain_timeout = \"2h\"", "server.drain_timeout", "must be from"),
        ("[server]", "chunk_size = \"1KiB\"", "server.chunk_size", "\"4KiB\" to \"64MiB\""),
        ("[server]", "chunk_size = \"65MiB\"", "server.chunk_size", "\"4KiB\" to \"64MiB\""),
        ("[server]", "chunk_size = \"65536\"", "server.chunk_size", "has no unit"),
        ("[server]", "allow_plaintext = \"yes\"", "server.allow_plaintext", "expected a boolean"),
        ("[server]", "instance = \" a\"", "server.instance", "blank"),
        ("[server]", "proxy = \"socks5://h\"", "server.proxy", "write for example \"http://proxy"),
        ("[server]", "proxy = 3128", "server.proxy", "text in quotes"),
        ("[limits]", "max_concurrent_uploads = 0", "limits.max_concurrent_uploads", "from 1"),
        ("[limits]", "max_concurrent_uploads = -1", "limits.max_concurrent_uploads", "whole number from 0"),
        ("[limits]", "files_per_second = -1", "limits.files_per_second", "0 (unlimited)"),
        ("[limits]", "files_per_second = nan", "limits.files_per_second", "0 (unlimited)"),
        ("[limits]", "bytes_per_second = \"1B\"", "limits.bytes_per_second", "at least \"1KiB\""),
        ("[retry]", "attempts = 0", "retry.attempts", "from 1"),
        ("[retry]", "initial = \"11m\"", "retry.initial", "is less than"),
        ("[retry]", "max = \"1s\"", "retry.max", "raise max"),
        ("[state]", "directory = \"state\"", "state.directory", "absolute"),
        ("[log]", "level = \"loud\"", "log.level", "is not a log level"),
        ("[log]", "format = \"xml\"", "log.format", "`pretty`"),
        ("[pipelines.invoices]", "token_file = \"t\"", "pipelines.invoices.token_file", "is enough"),
        ("[pipelines.invoices]", "threads = 5000", "pipelines.invoices.threads", "up to 4096"),
        ("[pipelines.invoices]", "ttl = \"500ms\"", "pipelines.invoices.ttl", "whole seconds"),
        ("[pipelines.invoices]", "uri = \"\"", "pipelines.invoices.uri", "names no server"),
        ("[pipelines.invoices]", "uri = \"https://u:p@host\"", "pipelines.invoices.uri", "api_key_file"),
        ("[pipelines.invoices]", "api_key_file = \"\"", "pipelines.invoices.api_key_file", "names no file"),
        (
            "[pipelines.invoices.limits]",
            "max_concurrent_uploads = 0",
            "pipelines.invoices.limits.max_concurrent_uploads",
            "from 1",
        ),
        ("[[watch]]", "name = \"a/b\"", "watch.name", "slashes"),
        ("[[watch]]", "name = \"..\"", "watch.name", "slashes and dots"),
        ("[[watch]]", "name = \"a\\tb\"", "watch.name", "control characters"),
        ("[[watch]]", "name = \"\"", "watch.name", "no name"),
        ("[[watch]]", "include = [\"*.csv\", \"[\"]", "watch.include", "the glob \"[\" is wrong"),
        ("[[watch]]", "exclude = [\"!a\"]", "watch.exclude", "cannot be negated"),
        ("[[watch]]", "include = [5]", "watch.include", "text in quotes"),
        ("[[watch]]", "settle = \"0s\"", "watch.settle", "must be from \"1ms\""),
        ("[[watch]]", "poll_interval = \"0s\"", "watch.poll_interval", "must be from"),
        ("[[watch]]", "rescan_interval = \"0s\"", "watch.rescan_interval", "must be from"),
        ("[[watch]]", "max_size = \"0\"", "watch.max_size", "refuse every file"),
        ("[[watch]]", "mime_type = \"csv\"", "watch.mime_type", "is not a MIME type"),
        ("[[watch]]", "on_success = \"archive\"", "watch.on_success", "{ move = \"FOLDER\" }"),
        ("[[watch]]", "on_success = { move = \"\" }", "watch.on_success.move", "name a folder"),
        ("[[watch]]", "on_success = { move = \".\" }", "watch.on_success.move", "is the same folder as watch"),
        ("[[watch]]", "on_success = { move = \"..\" }", "watch.on_success.move", "contains watch"),
        ("[[watch]]", "done_marker = \"done\"", "watch.done_marker", "does not contain {name}"),
        ("[[watch]]", "done_marker = \"{stem}.done\"", "watch.done_marker", "does not contain {name}"),
        ("[[watch]]", "done_marker = \"{name}\"", "watch.done_marker", "the input itself"),
        ("[[watch]]", "done_marker = \"ok/{name}\"", "watch.done_marker", "leave out slashes"),
        ("[[watch]]", "done_marker = \"{name}.{name}\"", "watch.done_marker", "no other braces"),
        ("[[watch]]", "done_marker = \"{name}.result.json\"", "watch.done_marker", "its own files"),
        ("[[watch]]", "done_marker = \".rri-{name}\"", "watch.done_marker", "its own files"),
        ("[[watch]]", "done_marker = \"{name}\\n\"", "watch.done_marker", "control characters"),
        ("[[watch]]", "on_failure = \"delete\"", "watch.on_failure", "\"keep\" or { move = \"FOLDER\" }"),
        ("[[watch]]", "on_failure = { move = \" \" }", "watch.on_failure.move", "name a folder"),
        ("[[watch]]", "on_failure = { move = \".\" }", "watch.on_failure.move", "is the same folder as watch"),
        ("[[watch]]", "detect = \"magic\"", "watch.detect", "`events`"),
        ("[watch.results]", "mode = \"0755\"", "watch.results.mode", "octal"),
        ("[watch.results]", "mode = \"0440\"", "watch.results.mode", "octal"),
    ] {
        one_problem(&with(section, line), key, line, words);
    }
    for key in ["name", "path", "url", "flags", "size", "objectId"] {
        let line = format!("metadata = {{ {key} = \"x\" }}");
        one_problem(&with("[[watch]]", &line), &format!("watch.metadata.{key}"), &line, "reserved");
    }
    let line = format!("name = \"{}\"", "n".repeat(65));
    one_problem(&with("[[watch]]", &line), "watch.name", &line, "65 characters");
}

#[test]
fn what_is_missing_is_asked_for_where_it_belongs() {
    one_problem(&MINIMAL.replace("path = \"/srv", "#"), "watch.path", "[[watch]]", "absolute path");
    one_problem(&MINIMAL.replace("pipeline = ", "#"), "watch.pipeline", "[[watch]]", "[pipelines.NAME]");
    one_problem(&MINIMAL.replace("uri = ", "#"), "server.uri", "[server]", "$ROCKETRIDE_URI");
    one_problem(&MINIMAL.replace("\"/srv/drop", "\"drop"), "watch.path", "path", "begin it with /");
    one_problem("[log]\nlevel = \"info\"", "server.uri", "[log]", "$ROCKETRIDE_URI");
    let env = Environment { rocketride_uri: Some("http://localhost:5565".to_owned()), ..Environment::default() };
    let config = Config::parse(&MINIMAL.replace("uri = ", "#"), origin(), &env).unwrap();
    assert_eq!(config.pipelines[0].uri, "http://localhost:5565");
    // What the file says goes before the environment.
    assert_eq!(Config::parse(MINIMAL, origin(), &env).unwrap().pipelines[0].uri, "https://api.rocketride.ai");
}

#[test]
fn a_key_of_the_wrong_type_is_not_called_missing_as_well() {
    one_problem(
        &MINIMAL.replace("uri = \"https://api.rocketride.ai\"", "uri = 5"),
        "server.uri",
        "uri = 5",
        "text in quotes",
    );
    one_problem(
        &MINIMAL.replace("path = \"/srv/drop/invoices\"", "path = 5"),
        "watch.path",
        "path = 5",
        "text in quotes",
    );
    one_problem(&MINIMAL.replace("pipeline = \"invoices\"", "pipeline = 5"), "watch.pipeline", "= 5", "text in quotes");
    one_problem(
        &with("[pipelines.invoices]", "threads = 2")
            .replace("file = \"/etc/rocketride-ingest/invoices.pipe\"", "file = 5"),
        "pipelines.invoices.file",
        "file = 5",
        "text in quotes",
    );
}

#[test]
fn an_unknown_pipeline_and_a_name_used_twice_are_named() {
    one_problem(
        &MINIMAL.replace("pipeline = \"invoices\"", "pipeline = \"invoice\""),
        "watch.pipeline",
        "pipeline =",
        "(defined: invoices)",
    );
    let twice = format!("{MINIMAL}[[watch]]\npath = \"/mnt/invoices\"\npipeline = \"invoices\"\n");
    one_problem(&twice, "watch.path", "/mnt/invoices", "the watch of line 8 is called \"invoices\" too");
    let twice = format!("{MINIMAL}[[watch]]\nname = \"invoices\"\npath = \"/mnt/b\"\npipeline = \"invoices\"\n");
    one_problem(&twice, "watch.name", "name = \"invoices\"", "another name");
}

#[test]
fn folders_that_contain_one_another_are_refused() {
    let second = |path: &str, more: &str| {
        format!("{MINIMAL}[[watch]]\nname = \"b\"\npath = {path:?}\npipeline = \"invoices\"\n{more}\n")
    };
    let overlap = "choose folders that do not contain one another";
    one_problem(&second("/srv/drop/invoices", ""), "watch.path", "path", "is the same folder as watch \"invoices\"");
    one_problem(
        &second("/srv//drop/x/../invoices/./deep/", ""),
        "watch.path",
        "path",
        "lies inside watch \"invoices\"",
    );
    one_problem(&second("/srv", ""), "watch.path", "path", "contains watch \"invoices\" /srv/drop/invoices (line 8)");
    one_problem(&second("/var/lib/rocketride-ingest/in", ""), "watch.path", "path", "(the default)");
    one_problem(&with("[state]", "directory = \"/srv/drop\""), "state.directory", "directory", overlap);
    let target = "watch.on_success.move";
    one_problem(&second("/srv/b", "on_success = { move = \"/srv/drop/invoices/b\" }"), target, "move", overlap);
    one_problem(&second("/srv/b", "on_success = { move = \"/var/lib/rocketride-ingest\" }"), target, "move", overlap);
    let failed = "watch.on_failure.move";
    one_problem(&second("/srv/b", "on_failure = { move = \"/srv/drop/invoices/b\" }"), failed, "move", overlap);
    let both = "on_success = { move = \"done\" }\non_failure = { move = \"done/failed\" }";
    one_problem(&with("[[watch]]", both), failed, "on_failure", "lies inside the move target of watch");
    // A name that merely begins alike is another folder.
    good(&second("/srv/drop/invoices2", ""));
}

#[test]
fn a_results_directory_is_nobody_elses_folder_and_may_be_shared_as_a_whole() {
    let at = |directory: &str| format!("[watch.results]\ndirectory = {directory:?}\n");
    let second = |first: &str, more: &str| {
        format!("{MINIMAL}{first}[[watch]]\nname = \"b\"\npath = \"/srv/b\"\npipeline = \"invoices\"\n{more}")
    };
    let key = "watch.results.directory";
    for (directory, words) in [
        ("/srv/drop/invoices", "is the same folder as watch \"invoices\""),
        (".", "is the same folder as"),
        ("/srv/drop", "the results directory of watch \"invoices\" /srv/drop contains watch"),
        ("/var/lib/rocketride-ingest/out", "the default"),
        (" ", "must name a folder, for example \"results\""),
    ] {
        one_problem(&with("[watch.results]", &format!("directory = {directory:?}")), key, "directory", words);
    }
    one_problem(&second("", &at("/srv/drop/invoices/b")), key, "directory", "lies inside watch \"invoices\"");
    one_problem(&second(&at("/out"), &at("/out/b")), key, "directory", "lies inside the results directory of");
    let moving = format!("on_success = {{ move = \"done\" }}\n{}", at("done/results"));
    one_problem(&second("", &moving), key, "directory", "lies inside the move target of");
    good(&second(&at("/out"), &at("/out")));
    good(&second(&at("out"), &at("out")));
    // One that is shared inside a watch is not inside the other's own.
    one_problem(&second(&at("out"), &at("/srv/drop/invoices/out")), key, "directory", "lies inside watch");
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_file() {
    let text = r#"
[server]
uri = 5
colour = "red"
chunk_size = "1KiB"
[pipelines.a]
threads = "many"
[[watch]]
path = "/srv/a"
pipeline = "b"
settle = "soon"
[[watch]]
pipeline = "a"
poll_interval = "0s"
"#;
    let found = invalid(text);
    let keys: Vec<_> = found.problems.iter().map(|problem| (problem.line, problem.key.as_str())).collect();
    let expected = [
        (3, "server.uri"),
        (4, "server.colour"),
        (5, "server.chunk_size"),
        (7, "pipelines.a.threads"),
        (10, "watch.pipeline"),
        (11, "watch.settle"),
        (12, "watch.path"),
        (14, "watch.poll_interval"),
    ];
    assert_eq!(keys, expected, "{found}");
}

#[test]
fn a_file_full_of_nonsense_is_reported_within_bounds() {
    let nonsense: String = (0..500).map(|number| format!("k{number} = 1")).collect::<Vec<_>>().join("\n");
    let found = invalid(&nonsense);
    assert_eq!(found.problems.len(), MAX_PROBLEMS);
    assert!(found.omitted > 0 && found.to_string().contains("more"));
}

#[test]
fn a_problem_shows_its_line_with_a_caret_under_the_value() {
    let printed = invalid(&with("[[watch]]", "settle = \"soon\"")).to_string();
    let lines: Vec<_> = printed.lines().skip(1).collect();
    assert_eq!(lines, ["  |", "8 | settle = \"soon\"", "  |          ^^^^^^"], "{printed}");
}

#[test]
fn a_syntax_error_has_its_place() {
    let found = invalid("[server]\nuri = https://x\n");
    assert_eq!(found.problems[0].line, 2, "{found}");
    let duplicate = invalid("[server]\nuri = \"a\"\nuri = \"b\"\n");
    assert_eq!(duplicate.problems[0].line, 3, "{duplicate}");
}

#[test]
fn no_problem_shows_a_secret() {
    let secret = "rr_s3cr3t";
    for text in [
        format!("[server]\napi_key = \"{secret}\nuri = 5"),
        format!("[server]\napi_key = {secret}\n"),
        format!("[server]\napi_key = \"\"\"\n{secret} =\n\u{1}\"\"\"\n"),
        format!("[server]\napikey = \"{secret}\"\n"),
        format!("[server]\napi_key_file = \"x\"\napi_key = \"{secret}\"\n"),
        format!("[server]\napi_key = [\"{secret}\"]\n"),
        format!("[server]\nuri = \"https://user:{secret}@host name\"\n"),
        with("[pipelines.invoices]", &format!("token = \"{secret}\"")),
        with("[server]", &format!("proxy = \"http://u:{secret}@h:x\"")),
        with("[server]", &format!("proxy = [\"http://u:{secret}@h\"]")),
        with("[pipelines.invoices]", &format!("token = {{ a = \"{secret}\" }}")),
    ] {
        let found = invalid(&text);
        assert!(!format!("{found} {found:?}").contains(secret), "{found}");
    }
    let found = invalid(&with("[pipelines.invoices]", "token = 123456789"));
    assert!(!format!("{found} {found:?}").contains("123456789"), "{found}");
}

/// The characters that matter to TOML and to the printing of a line, and some text.
const FRAGMENT: &str = "[\\[\\]{}=\"'#.,\\\\ \t\r\nü€\u{202e}\u{1b}a5-]{0,12}";

proptest::proptest! {
    #[test]
    fn a_damaged_file_is_refused_in_words_and_never_by_a_panic(
        start in 0..MINIMAL.len(),
        length in 0..40_usize,
        fragment in FRAGMENT,
    ) {
        let end = (start + length).min(MINIMAL.len());
        let text = format!("{}{fragment}{}", &MINIMAL[..start], &MINIMAL[end..]);
        if let Err(error) = Config::parse(&text, origin(), &Environment::default()) {
            let printed = error.to_string();
            assert!(printed.starts_with(&format!("{}:", origin().display())));
            assert!(!printed.contains(['\u{1b}', '\u{202e}', '\t', '\r']));
        }
    }
}

#[test]
fn an_admin_address_and_a_socket_must_be_usable_as_such() {
    let of = |line: &str| with("[admin]", line);
    one_problem(&of("listen = \"localhost\""), "admin.listen", "listen", "an IP and a port");
    one_problem(&of("socket = \"admin.sock\""), "admin.socket", "socket", "absolute");
    one_problem(&of(&format!("socket = \"/{}\"", "s".repeat(107))), "admin.socket", "socket", "107 bytes");
    let admin = good(&of("listen = \"[::1]:9644\"\ntoken_file = \"token\"")).admin;
    assert_eq!(admin.listen.unwrap().port(), 9644);
    assert!(admin.token.is_some());
}
