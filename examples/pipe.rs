//! Starts a pipeline, and sends what comes on standard input to it as one text, line by line.
//!
//! `... | ROCKETRIDE_URI=localhost ROCKETRIDE_APIKEY=... cargo run --example pipe -- FILE.pipe`

#![allow(clippy::print_stdout, reason = "it is what an example is for")]

use rocketride_ingest::client::{Client, ExecuteOptions, ObjectInfo};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("which pipeline? FILE.pipe")?;
    let client = Client::from_env()?;
    let task = client.use_pipeline(ExecuteOptions::from_file(file)?).await?;

    let mut pipe = client.pipe(&task.token, ObjectInfo::named("stdin.txt"), None, None);
    pipe.open().await?;
    for line in std::io::stdin().lines() {
        // Every write is a paragraph of the result. A pipe that hears nothing for 45 s is given up.
        pipe.write(line? + "\n").await?;
    }
    // Only this commits. Whoever returns early, by `?` too, leaves nothing behind.
    let result = pipe.close().await?;
    for text in result.text() {
        print!("{text}");
    }
    for answer in result.answers() {
        println!("{answer}");
    }
    Ok(())
}
