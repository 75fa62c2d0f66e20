//! Sends files to a running task and prints one result a line, as the SDK's JSON.
//!
//! `ROCKETRIDE_URI=localhost ROCKETRIDE_APIKEY=... cargo run --example send_files -- TASK_TOKEN FILE...`

#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use std::process::ExitCode;

use rocketride_ingest::client::{Client, SecretString, UploadResult};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let token = SecretString::from(arguments.next().ok_or("which task? TOKEN FILE...")?);
    let files: Vec<String> = arguments.collect();

    let client = Client::from_env()?;
    let results = client.send_files(files, &token).await?;
    for result in &results {
        println!("{}", serde_json::to_string(result)?);
    }
    client.disconnect().await;
    let all = results.iter().all(UploadResult::is_complete);
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
