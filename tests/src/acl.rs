//! The Redis user of README.md, with the permissions that README.md lists.

use std::fs;
use std::path::Path;

use crate::redis_server::RedisServer;

/// The name of the user.
pub const USER: &str = "checkpointer";

/// The comments of README.md on the lines that the contract needs.
pub const CONTRACT: [&str; 6] = [
    "name, and keys under the prefix",
    "reads",
    "writes",
    "clear-all, copy",
    "plugins",
    "plugins with a quota",
];

/// The rules of each line `ACL SETUSER checkpointer` in README.md, with the
/// comment of the line.
pub fn documented() -> Vec<(String, Vec<String>)> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(readme).expect("README.md");
    let lines = text.lines().filter_map(|line| line.strip_prefix("redis-cli ACL SETUSER checkpointer "));
    lines
        .map(|line| {
            let (rules, purpose) = line.split_once(" # ").expect("a remark");
            let rules = rules.split_whitespace().map(|rule| rule.trim_matches('\'').to_owned());
            (purpose.trim().to_owned(), rules.collect())
        })
        .collect()
}

/// The rules of the lines with these comments.
pub fn rules(purposes: &[&str]) -> Vec<String> {
    let documented = documented();
    let of = |purpose: &&str| {
        let line = documented.iter().find(|(other, _)| other == purpose);
        line.unwrap_or_else(|| panic!("README.md has no rules for: {purpose}")).1.clone()
    };
    purposes.iter().flat_map(of).collect()
}

/// Creates the user again with these rules. Returns the URL for this user.
pub async fn set_user(server: &RedisServer, rules: &[String]) -> String {
    let words: Vec<&str> =
        ["ACL", "SETUSER", USER, "reset"].into_iter().chain(rules.iter().map(String::as_str)).collect();
    server.command::<redis::Value>(&words).await;
    let password = rules.iter().find_map(|rule| rule.strip_prefix('>')).expect("a password");
    format!("redis://{USER}:{password}@127.0.0.1:{}", server.port())
}
