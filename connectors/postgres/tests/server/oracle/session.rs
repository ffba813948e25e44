//! A session of `psql` that is fed piece by piece.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use millstream_testkit::postgres::TestCluster;

pub struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

const END: &str = "-- end of the piece --";

impl Session {
    /// A session whose statements may fail.
    pub fn of(cluster: &TestCluster) -> Self {
        Self::with(cluster, Stdio::null())
    }

    /// A session whose failures are shown.
    pub fn asking(cluster: &TestCluster) -> Self {
        Self::with(cluster, Stdio::inherit())
    }

    fn with(cluster: &TestCluster, errors: Stdio) -> Self {
        let mut command = cluster.psql_command("postgres").unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            input,
            output: BufReader::new(output),
        }
    }

    /// Runs statements or commands of `psql` to their end; they may fail. Returns what it printed.
    pub fn run(&mut self, piece: &str) -> String {
        writeln!(self.input, "{piece}\n\\echo {END}").unwrap();
        self.input.flush().unwrap();
        let (mut printed, mut begin) = (String::new(), 0);
        while printed[begin..].trim_end() != END {
            begin = printed.len();
            assert!(
                self.output.read_line(&mut printed).unwrap() > 0,
                "psql ended in {piece}"
            );
        }
        printed.truncate(begin);
        printed
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
