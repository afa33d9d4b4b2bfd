use std::net::TcpListener;
use std::thread::{JoinHandle, spawn};

use super::*;

const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const HERE: Reach = Reach { mark: None, loopback: true };

/// A server of one connection for each answer; it hands back what was asked.
fn serve(answers: Vec<Vec<u8>>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("it is bound"));
    let serving = spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let (mut request, mut piece) = (Vec::new(), [0; 1024]);
            while !request.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut piece).expect("a request");
                request.extend_from_slice(&piece[..count]);
            }
            let _ = stream.write_all(&answer);
            asked.push(String::from_utf8_lossy(&request).into_owned());
        }
        asked
    });
    (address, serving)
}

fn wanted(address: &str, timeout_ms: u64) -> Wanted {
    Wanted { address: address.into(), discovery: false, timeout_ms, issuer: "http://issuer".into() }
}

fn answer(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn fetched(answers: Vec<Vec<u8>>) -> Result<usize, String> {
    let (address, serving) = serve(answers);
    let keys = fetch_keys(&wanted(&format!("{address}/keys?v=1"), 10_000), HERE);
    assert!(serving.join().expect("the server ends")[0].starts_with("GET /keys?v=1 HTTP/1.1\r\nHost: 127.0.0.1:"));
    keys.map(|keys| keys.len())
}

#[test]
fn jw_15_keys_come_in_every_framing() {
    assert_eq!(fetched(vec![answer(KEYS)]), Ok(1));
    let chunked =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{KEYS}\r\n0\r\n\r\n", KEYS.len());
    assert_eq!(fetched(vec![chunked.into_bytes()]), Ok(1));
    assert_eq!(fetched(vec![format!("HTTP/1.1 200 OK\r\n\r\n{KEYS}").into_bytes()]), Ok(1));
}

#[test]
fn jw_15_what_is_no_key_set_is_an_error() {
    for body in ["", "{}", "<html></html>", "{\"keys\":", "{\"keys\":[]}", "[]"] {
        assert!(fetched(vec![answer(body)]).is_err(), "{body}");
    }
    let cut = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{KEYS}", KEYS.len() + 1);
    assert_eq!(fetched(vec![cut.into_bytes()]), Err("the answer is cut off".into()));
    for status in ["404 Not Found", "500 Oh", "204 No Content"] {
        assert!(fetched(vec![format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()]).is_err());
    }
    assert!(fetched(vec![b"nonsense\r\n\r\n".to_vec()]).is_err());
    let refused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    assert!(fetch_keys(&wanted(&format!("http://{refused}/"), 10_000), HERE).is_err());
}

#[test]
fn jw_15_a_slow_drip_ends_with_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/", listener.local_addr().expect("it is bound"));
    let serving = spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
        while stream.write_all(head.get(..1).unwrap_or(b" ")).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let keys = fetch_keys(&wanted(&address, 300), HERE);
    assert!(keys.is_err(), "the server would go on for ever");
    serving.join().expect("it was hung up on");
}

#[test]
fn jw_16_an_answer_has_a_bound() {
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(MAX_JWKS_BYTES + (64 << 10)));
    let told = fetched(vec![endless.into_bytes()]).expect_err("it is too long");
    assert!(told.contains("more than") || told.contains("eset"), "{told}");
}

#[test]
fn jw_17_addresses_of_this_machine_and_of_none_are_not_asked() {
    for address in [
        "169.254.169.254",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[fe80::1]",
        "[::ffff:127.0.0.1]",
    ] {
        let told = fetch_keys(&wanted(&format!("http://{address}/keys"), 1_000), Reach::default());
        assert!(told.as_ref().is_err_and(|told| told.contains("no address that keys")), "{address}: {told:?}");
    }
    for address in
        ["file:///etc/passwd", "ftp://h/", "http://", "http://u:p@h/", "http://h:0/", "http://h:x/", "gopher://h"]
    {
        let told = fetch_keys(&wanted(address, 1_000), HERE);
        assert!(told.as_ref().is_err_and(|told| told.contains("expected an http")), "{address}: {told:?}");
    }
    assert!(is_place_of_issuers("10.0.0.1".parse().expect("an address"), false), "issuers may be in the mesh");
}

#[test]
fn jw_17_a_redirect_is_not_followed() {
    let redirect = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n".to_vec();
    assert!(fetched(vec![redirect]).is_err_and(|told| told.contains("redirects are not followed")));
}

#[test]
fn discovery_leads_to_the_keys_of_its_own_issuer() {
    let ask = |issuer: &str| {
        let (keys, serving_keys) = serve(vec![answer(KEYS)]);
        let document = format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}/jwks"}}"#);
        let (address, serving) = serve(vec![answer(&document)]);
        let place = format!("{address}/.well-known/openid-configuration");
        let found = fetch_keys(&Wanted { discovery: true, ..wanted(&place, 10_000) }, HERE);
        serving.join().expect("the document was asked for");
        if found.is_err() {
            // Nobody has asked for the keys: the server is let go.
            let mut stream = TcpStream::connect(keys.trim_start_matches("http://")).expect("it listens");
            stream.write_all(b"\r\n\r\n").expect("it reads");
        }
        serving_keys.join().expect("the keys were asked for");
        found
    };
    assert_eq!(ask("http://issuer/").map(|keys| keys.len()), Ok(1));
    assert_eq!(ask("http://other"), Err("the discovery document is another issuer's".into()));
}
