//! `save`: documents from files or standard input.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Options, Status, UsageError, print};

pub async fn run(options: &Options, files: Vec<PathBuf>, out: &mut impl Write) -> Result<Status> {
    let checkpointer = options.open().await?;
    let files = if files.is_empty() { vec![PathBuf::from("-")] } else { files };
    for file in files {
        let is_stdin = file.as_os_str() == "-";
        let name = if is_stdin { "standard input".to_owned() } else { file.display().to_string() };
        let bytes = if is_stdin { read_stdin() } else { fs::read(&file) };
        let text = String::from_utf8(bytes.with_context(|| name.clone())?)
            .map_err(|_| UsageError(format!("{name}: not UTF-8")))?;
        // Some editors begin a file with a byte order mark.
        let documents = split_documents(text.strip_prefix('\u{feff}').unwrap_or(&text));
        if documents.is_empty() {
            return Err(UsageError(format!("{name}: contains no document")).into());
        }
        for (line, document) in documents {
            let saved = checkpointer.save_document(document).await;
            let (metadata, outcome) = saved.with_context(|| format!("{name}, line {line}"))?;
            print::saved(&metadata, &outcome, options.json, out)?;
        }
    }
    Ok(Status::Success)
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the documents of a file with their first lines: the whole file is one
/// document, or each line is one (JSON Lines).
fn split_documents(text: &str) -> Vec<(usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let mut lines = lines.filter(|(_, line)| !line.trim().is_empty()).peekable();
    match lines.peek().copied() {
        None => Vec::new(),
        // Only JSON Lines has a complete object in its first line.
        Some((_, first)) if first.trim_end().ends_with('}') && is_balanced(first) => lines.collect(),
        Some((number, _)) => vec![(number, text)],
    }
}

/// Whether each brace outside of strings is closed.
fn is_balanced(line: &str) -> bool {
    let (mut depth, mut in_string, mut is_escaped) = (0_i64, false, false);
    for byte in line.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b'{' if !in_string => depth += 1,
            b'}' if !in_string => depth -= 1,
            _ => {}
        }
    }
    depth == 0 && !in_string
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_one_document_or_json_lines() {
        assert_eq!(split_documents("{\n \"a\": {}\n}\n"), [(1, "{\n \"a\": {}\n}\n")]);
        assert_eq!(
            split_documents("\n{\"a\": \"}{\"}\n\n{\"b\": 1}\n"),
            [(2, "{\"a\": \"}{\"}"), (4, "{\"b\": 1}")]
        );
        assert_eq!(split_documents("{\"a\": {}}"), [(1, "{\"a\": {}}")]);
        assert_eq!(split_documents(" \n"), []);
        assert_eq!(split_documents("not json"), [(1, "not json")]);
    }
}
