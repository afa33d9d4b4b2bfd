//! The answers of a real Envoy: the same requests are refused here, with the same status, and the same paths come out.

use crate::feed::{End, requests};
use meshdp_proto::{PathMode, normalise};
use serde_json::Value;
use std::path::PathBuf;

/// The reference folder beside the repository; tests that need it say so and pass where it is absent.
pub(crate) fn shared(below: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance").join(below);
    if !path.exists() {
        println!("skipped: no reference vectors at ../shared/conformance/{below}");
        return None;
    }
    Some(path)
}

pub(crate) fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn mode(name: &str) -> PathMode {
    match name {
        "NONE" => PathMode::None,
        "BASE" | "DEFAULT" => PathMode::Base,
        "MERGE_SLASHES" => PathMode::MergeSlashes,
        "DECODE_AND_MERGE_SLASHES" => PathMode::DecodeAndMergeSlashes,
        other => panic!("unknown mode {other}"),
    }
}

/// Every HTTP/1 request of every set, with its set's path mode.
fn each(mut check: impl FnMut(&Value, PathMode) -> bool) -> usize {
    let Some(folder) = shared("authz-verdicts") else { return usize::MAX };
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_stem().is_some_and(|stem| stem.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit())) {
            continue;
        }
        let set = read(path);
        let mode = mode(set["mesh"]["pathNormalization"].as_str().unwrap());
        let plain = |request: &&Value| request["request"]["path"].is_string() && request["http"] != 2;
        checked +=
            set["requests"].as_array().unwrap().iter().filter(plain).filter(|request| check(request, mode)).count();
    }
    checked
}

/// Strings in the sets stand for Latin-1 bytes.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect()
}

#[test]
fn envoy_forwarded_the_same_paths() {
    let checked = each(|request, mode| {
        let (path, expect) = (request["request"]["path"].as_str().unwrap(), &request["expect"]);
        let steered = request["request"]["headers"].to_string().contains("x-ext-authz");
        // Deviation: a tab inside the request line is refused here (H1-49); Envoy trims it.
        if steered || path.contains("{{token") || path.contains('\t') {
            return false;
        }
        let mut out = Vec::new();
        let outcome = normalise(&latin1(path), mode, &mut out);
        match expect["status"].as_u64() {
            Some(200) => {
                outcome.unwrap();
                assert_eq!(String::from_utf8_lossy(&out), expect["upstreamPath"].as_str().unwrap_or(path));
            }
            Some(400) if expect["detail"] == "path_normalization_failed" => {
                assert_eq!(outcome.unwrap_err().status, 400);
            }
            _ => return false,
        }
        true
    });
    assert!(checked > 1_000, "only {checked} requests were found");
}

#[test]
fn envoy_refused_the_same_requests() {
    let checked = each(|request, mode| {
        let expect = &request["expect"];
        let bytes = wire(&request["request"]);
        let protocol = [
            "http1.codec_error",
            "missing_host_header",
            "low_version",
            "absolute_path_rejected",
            "path_normalization_failed",
        ];
        let refused = expect["detail"].as_str().is_some_and(|detail| protocol.contains(&detail));
        // The feed normalises as BASE does; the other modes are compared above.
        if expect["status"].as_u64() == Some(0) || mode != PathMode::Base {
            return false;
        }
        let end = requests(&bytes).end;
        let seen = if let End::Refused(status, _) = end { Some(u64::from(status)) } else { None };
        let wanted =
            if deviates(&request["request"]) { Some(400) } else { expect["status"].as_u64().filter(|_| refused) };
        assert_eq!(seen, wanted, "{end:?} {:?} {request}", String::from_utf8_lossy(&bytes));
        true
    });
    assert!(checked > 1_000, "only {checked} requests were found");
}

/// Deviation: two Host fields (H1-51) and a tab in the request line (H1-49) are refused here.
fn deviates(request: &Value) -> bool {
    let second_host = request["headers"].as_array().into_iter().flatten().any(|header| header[0] == "host");
    second_host || request["path"].as_str().unwrap().contains('\t')
}

fn wire(request: &Value) -> Vec<u8> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = request["version"].as_str().unwrap_or("1.1").trim_start_matches("HTTP/");
    let mut lines = vec![format!("{} {} HTTP/{version}", text(&request["method"]), text(&request["path"]))];
    lines.extend(request["host"].as_str().map(|host| format!("Host: {host}")));
    let headers = request["headers"].as_array().into_iter().flatten();
    lines.extend(headers.map(|header| format!("{}: {}", text(&header[0]), text(&header[1]))));
    latin1(&(lines.join("\r\n") + "\r\n\r\n"))
}
