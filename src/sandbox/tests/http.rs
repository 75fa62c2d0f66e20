//! HTTP on the same port, told with raw bytes.

use tokio::io::AsyncWriteExt;

use super::*;

/// Sends a request as it stands and reads to the end.
async fn talk(sandbox: &Sandbox, request: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(sandbox.addr()).await.unwrap();
    socket.write_all(request).await.unwrap();
    let mut reply = Vec::new();
    timeout(LIMIT, socket.read_to_end(&mut reply)).await.expect("an end").unwrap();
    reply
}

fn request(method: &str, path: &str, key: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

async fn call(
    sandbox: &Sandbox,
    method: &str,
    path: &str,
    key: &str,
    headers: &str,
    body: impl AsRef<[u8]>,
) -> (u16, Value) {
    let reply = talk(sandbox, &request(method, path, key, headers, body.as_ref())).await;
    let text = String::from_utf8(reply).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

const NAMED: &str = "Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=\"a.pdf\"\r\n";

#[tokio::test]
async fn a_raw_body_is_an_object_and_a_delivery() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 4).token;
    for path in DATA_PATHS {
        let (status, reply) =
            call(&sandbox, "POST", &format!("{path}?token={token}"), DEFAULT_API_KEY, NAMED, "hello world").await;
        assert_eq!((status, &reply["status"]), (200, &json!("OK")));
        let (data, object) = (&reply["data"], &reply["data"]["objects"]["body"]);
        assert_eq!((&data["objectsRequested"], &data["objectsCompleted"]), (&json!(1), &json!(1)));
        assert_eq!(data["resultTypes"], json!({"sandbox": "json"}));
        assert_eq!((&object["status"], &object["name"]), (&json!("OK"), &json!("a.pdf")));
        assert!(object.get("result_types").is_none());
    }
    let delivery = &sandbox.deliveries()[1];
    assert_eq!((delivery.name.as_str(), delivery.mime_type.as_str(), delivery.bytes), ("a.pdf", "application/pdf", 11));
    assert!(delivery.complete());
    assert_eq!(sandbox.pipes_in_use(&token), 0);
}

#[tokio::test]
async fn a_large_body_comes_in_bounded_pieces() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 4).token;
    let body = vec![7; 5 * 1024 * 1024 + 1];
    call(&sandbox, "POST", &format!("/webhook?token={token}"), DEFAULT_API_KEY, NAMED, &body).await;
    let delivery = &sandbox.deliveries()[0];
    assert_eq!((delivery.bytes, delivery.writes), (body.len() as u64, 81));
    assert!(sandbox.writes().iter().all(|write| write.bytes <= 64 * 1024));
}

#[tokio::test]
async fn a_bad_credential_is_401_on_every_path() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 4).token;
    for key in ["wrong", "", "tk_unknown", "pk_unknown"] {
        for (method, path) in [("POST", "/task/data"), ("POST", "/task"), ("GET", "/task"), ("GET", "/nothing")] {
            let (status, reply) = call(&sandbox, method, &format!("{path}?token={token}"), key, "", "").await;
            assert_eq!((status, &reply["status"]), (401, &json!("Error")), "{key} {path}");
        }
    }
    assert!(sandbox.deliveries().is_empty());
}

#[tokio::test]
async fn a_task_credential_needs_no_token_and_starts_nothing() {
    let sandbox = start().await;
    let tokens = sandbox.start_task("a", 4);
    for key in [&tokens.token, &tokens.public] {
        let (_, reply) = call(&sandbox, "POST", "/task/data?token=another", key, NAMED, "x").await;
        assert_eq!(reply["data"]["objectsCompleted"], 1);
        let (status, _) = call(&sandbox, "POST", "/task", key, "", pipeline("b").to_string()).await;
        assert_eq!(status, 400);
    }
    let (status, _) = call(&sandbox, "DELETE", "/task?token=x", &tokens.public, "", "").await;
    assert_eq!(status, 400);
    assert_eq!(sandbox.tasks().len(), 1);
}

#[tokio::test]
async fn failures_are_http_200() {
    let sandbox = start().await;
    let (unknown, dead) = ("tk_unknown".to_owned(), sandbox.start_task("dead", 4).token);
    sandbox.kill_task(&dead);
    for (token, message) in [(unknown, "Your pipeline is not running"), (dead, "Task has already completed")] {
        let (status, reply) =
            call(&sandbox, "POST", &format!("/task/data?token={token}"), DEFAULT_API_KEY, NAMED, "x").await;
        assert_eq!((status, &reply["data"]["objectsCompleted"]), (200, &json!(0)));
        let object = &reply["data"]["objects"]["body"];
        assert_eq!((&object["status"], &object["error"]["message"]), (&json!("Error"), &json!(message)));
    }
    let token = sandbox.start_task("a", 4).token;
    let path = format!("/task/data?token={token}");
    sandbox.faults().add(Rule::open(Effect::Mask).times(1));
    let (_, reply) = call(&sandbox, "POST", &path, DEFAULT_API_KEY, NAMED, "x").await;
    assert_eq!(reply["data"]["objects"]["body"], json!({"status": "OK"}), "a refused open");
    assert_eq!(reply["data"]["objectsCompleted"], 1);
    sandbox.faults().add(Rule::close(Effect::NodeError { message: "no model".into() }).times(1));
    let (_, reply) = call(&sandbox, "POST", &path, DEFAULT_API_KEY, NAMED, "x").await;
    let object = &reply["data"]["objects"]["body"];
    assert_eq!((&object["status"], &object["error"]["message"]), (&json!("OK"), &json!("no model")));
    assert_eq!(sandbox.deliveries().len(), 1);
}

#[tokio::test]
async fn fields_of_a_form_are_objects() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 4).token;
    let file = |name: &str, kind: &str, content: &str| {
        format!(
            "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: {kind}\r\n\r\n{content}\r\n"
        )
    };
    let note = "--xyz\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nread this\r\n";
    let body =
        [&file("a.pdf", "application/pdf", "one"), note, &file("b.txt", "text/plain", ""), "--xyz--\r\n"].concat();
    let path = format!("/task/data?token={token}");
    let form = "Content-Type: multipart/form-data; boundary=xyz\r\n";
    let (_, reply) = call(&sandbox, "POST", &path, DEFAULT_API_KEY, form, body).await;
    let (data, objects) = (&reply["data"], &reply["data"]["objects"]);
    assert_eq!((&data["objectsRequested"], &data["objectsCompleted"]), (&json!(3), &json!(3)));
    assert_eq!((&objects["file_0"]["name"], &objects["file_1"]["name"]), (&json!("a.pdf"), &json!("b.txt")));
    assert_eq!(objects["note"]["text"], json!(["read this\n\n"]));
    let skipped: Vec<bool> = sandbox.deliveries().iter().map(|delivery| delivery.skipped).collect();
    assert_eq!(skipped, [false, false, true], "a field without content is declared empty");
    let (status, _) = call(&sandbox, "POST", &path, DEFAULT_API_KEY, form, "nonsense").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_committed_as_far_as_it_came() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 1).token;
    let whole = request("POST", &format!("/task/data?token={token}"), DEFAULT_API_KEY, NAMED, &[b'x'; 1_000]);
    let mut socket = TcpStream::connect(sandbox.addr()).await.unwrap();
    socket.write_all(&whole[..whole.len() - 500]).await.unwrap();
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.pipes_in_use(&token) == 1).await);
    drop(socket);
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.delivered() == 1).await);
    let delivery = &sandbox.deliveries()[0];
    assert_eq!((delivery.bytes, delivery.complete()), (500, false));
}

#[tokio::test]
async fn a_form_that_breaks_off_commits_nothing_of_its_last_field() {
    let sandbox = start_with(|options| {
        options.reap_after = Duration::from_millis(50);
        options.reap_scan = Duration::from_millis(20);
    })
    .await;
    let token = sandbox.start_task("a", 1).token;
    let head = "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let body = [head, &"half of it ".repeat(20_000)].concat();
    let form = "Content-Type: multipart/form-data; boundary=xyz\r\n";
    let (_, reply) = call(&sandbox, "POST", &format!("/task/data?token={token}"), DEFAULT_API_KEY, form, body).await;
    assert_eq!(reply["status"], "Error");
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.reaped() == 1).await, "the pipe is left alone");
    assert!(sandbox.deliveries().is_empty());
}

#[tokio::test]
async fn a_task_starts_is_looked_at_and_stops() {
    let sandbox = start().await;
    let body = pipeline("p").to_string();
    let (status, reply) = call(&sandbox, "POST", "/task", DEFAULT_API_KEY, "", &body).await;
    assert_eq!(status, 200);
    let token = reply["data"]["token"].as_str().unwrap().to_owned();
    let path = format!("/task?token={token}");
    let (status, reply) = call(&sandbox, "POST", "/task", DEFAULT_API_KEY, "", &body).await;
    assert_eq!((status, &reply["error"]["message"]), (400, &json!("Pipeline is already running.")));
    assert_eq!(call(&sandbox, "GET", &path, DEFAULT_API_KEY, "", "").await.1["data"]["state"], 3);
    assert_eq!(sandbox.hold_slots(&token, 64).count(), 4, "slots of a task that HTTP started");
    assert_eq!(call(&sandbox, "DELETE", &path, DEFAULT_API_KEY, "", "").await, (200, json!({"status": "OK"})));
    assert_eq!(call(&sandbox, "GET", &path, DEFAULT_API_KEY, "", "").await.1["data"]["state"], 6);
    for (method, path, expected) in [
        ("GET", "/task", 422),
        ("GET", "/task?token=unknown", 400),
        ("POST", "/task?threads=65", 422),
        ("PUT", "/task/data", 405),
        ("GET", "/nothing", 404),
    ] {
        assert_eq!(call(&sandbox, method, path, DEFAULT_API_KEY, "", &body).await.0, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn trouble_meets_uploads_over_http_too() {
    let sandbox = start().await;
    let token = sandbox.start_task("a", 1).token;
    let upload = request("POST", &format!("/task/data?token={token}"), DEFAULT_API_KEY, NAMED, b"x");
    sandbox.faults().add(Rule::close(Effect::CutAfter).object("a.pdf").times(1));
    let mut socket = TcpStream::connect(sandbox.addr()).await.unwrap();
    socket.write_all(&upload).await.unwrap();
    let mut reply = Vec::new();
    let _ = timeout(LIMIT, socket.read_to_end(&mut reply)).await.expect("an end");
    assert_eq!((reply.len(), sandbox.delivered()), (0, 1), "committed, and the reply is lost");
    let slow = sandbox.faults().add(Rule::close(Effect::Delay(Duration::from_millis(100))));
    let mut socket = TcpStream::connect(sandbox.addr()).await.unwrap();
    socket.write_all(&upload).await.unwrap();
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.faults().hits(slow) == 1).await);
    drop(socket);
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.delivered() == 2).await, "the client left, the work goes on");
    assert_eq!((sandbox.pipes_in_use(&token), sandbox.panics()), (0, 0));
}

#[tokio::test]
async fn idle_http_connections_do_not_hold_up_a_stop() {
    let sandbox = start().await;
    let _idle = TcpStream::connect(sandbox.addr()).await.unwrap();
    let token = sandbox.start_task("a", 0).token;
    let mut waiting = TcpStream::connect(sandbox.addr()).await.unwrap();
    let upload = request("POST", &format!("/task/data?token={token}"), DEFAULT_API_KEY, NAMED, b"x");
    waiting.write_all(&upload).await.unwrap();
    assert!(sandbox.wait_for(LIMIT, |sandbox| sandbox.opens_waiting(&token) == 1).await);
    timeout(LIMIT, sandbox.stop()).await.expect("a stop");
    let mut reply = Vec::new();
    let _ = timeout(LIMIT, waiting.read_to_end(&mut reply)).await.expect("an end");
    assert!(reply.is_empty(), "never answered");
}
