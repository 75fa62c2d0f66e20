//! What a server may send: any bytes are a message or an error, never a panic; a message survives being sent on; an
//! error is short and quotes nothing but the type.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rocketride_ingest::client::protocol::Incoming;

/// Far above any error's own words.
const LONGEST_ERROR: usize = 1_000;

fuzz_target!(|data: &[u8]| {
    let message = match Incoming::decode(data) {
        Ok(message) => message,
        Err(error) => {
            assert!(error.to_string().len() < LONGEST_ERROR, "{error}");
            return;
        }
    };
    // Bodies are not compared: a float may be printed as its neighbour.
    match message {
        Incoming::Response(response) => {
            let again = Incoming::decode(response.encode().as_bytes());
            let Ok(Incoming::Response(again)) = again else { panic!("{response:?} became {again:?}") };
            assert_eq!((again.seq, again.request_seq), (response.seq, response.request_seq));
            assert_eq!((again.success, again.message), (response.success, response.message));
            assert_eq!((again.code, again.trace), (response.code, response.trace));
            assert_eq!((again.command, again.body.is_some()), (response.command, response.body.is_some()));
        }
        Incoming::Event(event) => {
            let again = Incoming::decode(event.encode().as_bytes());
            let Ok(Incoming::Event(again)) = again else { panic!("{event:?} became {again:?}") };
            assert_eq!((again.seq, again.event), (event.seq, event.event));
        }
    }
});
