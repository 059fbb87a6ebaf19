//! A plugin that tests the sandbox: which parts of WASI it can use, and how much of
//! them.

// Generates the types and functions of the interface.
wit_bindgen::generate!({ path: "../../../wit", world: "plugin", generate_all });

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, SystemTime};
use std::{env, fs, thread};

struct Plugin;
export!(Plugin);

impl Guest for Plugin {
    fn run(input: String) -> Result<String, String> {
        let words: Vec<&str> = input.split_whitespace().collect();
        match words[..] {
            ["look"] => Ok(look()),
            ["chance"] => Ok(RandomState::new().hash_one("").to_string()),
            ["write", count] => write(number(count)?),
            ["wait", count] => wait(number(count)?),
            ["sleep"] => sleep(),
            ["leave"] => std::process::exit(3),
            _ => Err("say: look | chance | write BYTES | wait HANDLES | sleep | leave".to_owned()),
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("not a number: {text:?}"))
}

/// Reports one resource of the host per line.
fn look() -> String {
    let mut input = String::new();
    let read = std::io::stdin().read_line(&mut input);
    let year = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| 1970 + since.as_secs() / (365 * 24 * 60 * 60));
    [
        format!("variables {}", env::vars().count()),
        format!("arguments {}", env::args().count()),
        format!("input {:?}", read.ok()),
        format!(
            "files {}",
            ["/", ".", "/etc/passwd", "/tmp"].iter().filter(|path| fs::metadata(path).is_ok()).count()
        ),
        format!("tcp {}", TcpStream::connect("127.0.0.1:6379").is_ok()),
        format!("udp {}", UdpSocket::bind("127.0.0.1:0").is_ok()),
        format!("names {}", "localhost:80".to_socket_addrs().is_ok()),
        format!("clock {}", year >= 2025),
    ]
    .join("\n")
}

/// Writes this many bytes, one half to each output stream.
fn write(bytes: usize) -> Result<String, String> {
    print!("{}", "o".repeat(bytes / 2));
    eprint!("{}", "e".repeat(bytes - bytes / 2));
    Ok("written".to_owned())
}

/// Opens this many WASI handles at the same time.
fn wait(count: usize) -> Result<String, String> {
    let held: Vec<_> = (0..count).map(|_| wasip2::clocks::monotonic_clock::subscribe_duration(1)).collect();
    Ok(held.len().to_string())
}

fn sleep() -> Result<String, String> {
    thread::sleep(Duration::from_secs(3600));
    Ok("slept".to_owned())
}
