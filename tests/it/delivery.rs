//! The main job: a file dropped into a folder becomes a result beside it.

use crate::harness::{Host, engine, sha256, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_dropped_into_a_folder_becomes_a_result_beside_it() {
    let (host, engine) = (Host::new(), engine().await);
    host.configure(&engine.uri(), "");
    let daemon = host.start();
    daemon.logged("\"message\":\"ready\"").await;
    host.write("in/a.txt", "hello\n");
    wait_for("the result", || host.result("a.txt").is_some()).await;

    let result = host.result("a.txt").unwrap();
    assert_eq!(result["action"], "complete");
    assert_eq!(result["sha256"], sha256("hello\n"));
    let deliveries = engine.deliveries();
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].sha256, sha256("hello\n"));
    assert_eq!(deliveries[0].object_id, result["object_id"].as_str().unwrap());
    daemon.stop().await;
}
