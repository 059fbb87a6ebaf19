//! Runs the program in a folder.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The path of the program.
pub fn path() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_checkpointer"))
}

/// The program with these arguments, without input and without the variables of
/// the user.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    for variable in ["STORE", "FROM", "TO", "LOG"] {
        command.env_remove(format!("CHECKPOINTER_{variable}"));
    }
    command.env("CHECKPOINTER_CACHE", folder.join("cache")).env("CHECKPOINTER_STATE", folder.join("state"));
    command
}

/// The result of a run of the program.
#[derive(Debug, PartialEq)]
pub struct Ended {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    /// The output of a run that succeeded.
    pub fn success(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.out
    }
}

pub fn run(folder: &Path, arguments: &[&str]) -> Ended {
    run_command(command(folder, arguments))
}

pub fn run_command(mut command: Command) -> Ended {
    command.output().expect("the program runs").into()
}

pub fn run_with_input(folder: &Path, arguments: &[&str], input: &str) -> Ended {
    let mut command = command(folder, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    // A program that fails early does not read all of its input.
    let _ = child.stdin.take().expect("an input").write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends").into()
}
