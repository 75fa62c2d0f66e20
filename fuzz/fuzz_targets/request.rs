//! What a client may send: any frame is a request or an error, never a panic; a request survives being sent on, with a
//! header of one line and its payload untouched.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use rocketride_ingest::client::protocol::{Frame, Request};

fuzz_target!(|data: &[u8]| {
    let frames = [
        std::str::from_utf8(data).ok().map(|text| Frame::Text(text.to_owned())),
        Some(Frame::Binary(Bytes::copy_from_slice(data))),
    ];
    for frame in frames.into_iter().flatten() {
        let Ok(request) = Request::decode(&frame) else { continue };
        assert_eq!(request.payload.is_some(), matches!(frame, Frame::Binary(_)));
        let encoded = request.encode();
        if let (Frame::Binary(bytes), Some(payload)) = (&encoded, &request.payload) {
            let line = bytes.iter().position(|byte| *byte == b'\n').expect("a header line");
            assert_eq!(&bytes[line + 1..], &payload[..]);
        }
        let again = Request::decode(&encoded).expect("a request that was one before");
        assert_eq!((again.seq, again.command, again.payload), (request.seq, request.command, request.payload));
        // Values are not compared: a float may be printed as its neighbour.
        assert!(again.arguments.keys().eq(request.arguments.keys()));
    }
});
