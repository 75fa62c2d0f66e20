//! Four hundred files with sixty-four descriptors: all arrive.
//!
//! The limit is a process's own, so this test runs itself again beneath `ulimit`.

use std::process::Stdio;

use rocketride_ingest::sandbox::Delivery;

use super::*;

const FILES: usize = 400;
const DESCRIPTORS: &str = "64";
/// Set for the run beneath the limit.
const URI: &str = "RRI_TEST_LIMITED_URI";
const TOKEN: &str = "RRI_TEST_LIMITED_TOKEN";
const FOLDER: &str = "RRI_TEST_LIMITED_FOLDER";

#[tokio::test]
async fn four_hundred_files_arrive_with_sixty_four_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    for at in 0..FILES {
        std::fs::write(folder.path().join(format!("{at:03}.bin")), [at.to_le_bytes(); 64].concat()).unwrap();
    }
    let (sandbox, _client, token) = engine(64).await;
    let output = tokio::process::Command::new("sh")
        .args(["-c", "ulimit -n \"$1\" && shift && exec \"$@\"", "sh", DESCRIPTORS])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "limits::the_run_beneath_the_limit", "--nocapture"])
        .env(URI, sandbox.uri())
        .env(TOKEN, token_text(&token))
        .env(FOLDER, folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within(output).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    assert_eq!(sandbox.delivered(), FILES as u64);
    assert!(sandbox.deliveries().iter().all(Delivery::complete));
}

/// Does nothing on its own: the test above runs it with the limit.
#[tokio::test]
async fn the_run_beneath_the_limit() {
    let Ok(uri) = std::env::var(URI) else { return };
    let token: SecretString = std::env::var(TOKEN).unwrap().into();
    let mut files: Vec<_> =
        std::fs::read_dir(std::env::var(FOLDER).unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), FILES);
    let client = Client::builder().uri(uri).api_key(DEFAULT_API_KEY).build().unwrap();
    let results = within(client.send_files(&files, &token)).await.unwrap();
    for (result, file) in results.iter().zip(&files) {
        assert!(result.is_complete() && result.filepath == file.to_str().unwrap(), "{result:?}");
    }
}
