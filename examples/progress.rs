//! Sends files three at a time, and shows how they get on: one line an event.
//!
//! `ROCKETRIDE_URI=localhost ROCKETRIDE_APIKEY=... cargo run --example progress -- TASK_TOKEN FILE...`

#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use rocketride_ingest::client::{Client, Notice, Progress, SecretString, SendOptions, UploadEvent};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let token = SecretString::from(arguments.next().ok_or("which task? TOKEN FILE...")?);
    let files: Vec<String> = arguments.collect();

    let client = Client::from_env()?;
    let (progress, mut events) = Progress::stream();
    let options = SendOptions { concurrency: 3, progress: Some(progress), ..SendOptions::default() };
    // The stream ends with the upload.
    let watch = async {
        while let Some(notice) = events.next().await {
            match notice {
                Notice::Event(UploadEvent::Write { filepath, bytes_sent, file_size }) => {
                    println!("{filepath}: {bytes_sent} of {file_size} bytes");
                }
                Notice::Event(UploadEvent::Done(result)) => match &result.error {
                    None => println!("{}: done in {:.1} s", result.filepath, result.upload_time),
                    Some(error) => println!("{}: {error}", result.filepath),
                },
                Notice::Event(event) => println!("{}: {}", event.filepath(), event.action()),
                Notice::Missed(count) => println!("({count} events came too fast to be shown)"),
                Notice::Reconnected => {}
            }
        }
    };
    let (results, ()) = tokio::join!(client.send_files_with(files, &token, options), watch);
    println!("{} files", results?.len());
    Ok(())
}
