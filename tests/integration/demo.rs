//! The demo, as a newcomer runs it: the program itself, its output, its exit code, and what it
//! leaves behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use arrow_array::RecordBatchReader;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use millstream_parquet::{ParquetConfig, committed_files};
use millstream_testkit::process::{ServerProcess, tied_command};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::daemon::MILLSTREAM;

/// The tables, and how many rows the workload always ends with.
const TABLES: [(&str, &str); 4] = [
    ("customers", "2,018"),
    ("order_items", "97,520"),
    ("orders_clean", "19,510"),
    ("clicks_clean", "7,056"),
];

/// What must be in quarantine: check and reason.
const REASONS: [&str; 12] = [
    "accepted_range_amount: ",
    "accepted_values_status: ",
    "discount_within_amount: ",
    "length_between_currency: ",
    "not_null_order_id_customer_id_placed_at: ",
    "regex_match_email: ",
    "accepted_values_page: ",
    "not_null_click_id_clicked_at: ",
    "column `click_id`: expected int64",
    "invalid UTF-8 after 0 bytes",
    "not a JSON object",
    "truncated JSON",
];

/// A customer that the workload never changes after the first copy.
const QUIET_CUSTOMER: i64 = 5;

/// A demo; killed when it is dropped, and its servers with it.
struct Demo {
    process: ServerProcess,
    folder: TempDir,
}

impl Demo {
    fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = File::create(folder.path().join("output")).unwrap();
        let mut command = tied_command(Path::new(MILLSTREAM), None);
        command
            .arg("demo")
            .args(flags)
            .arg("--dir")
            .arg(folder.path().join("demo"));
        command.stdout(output.try_clone().unwrap()).stderr(output);
        Self {
            process: ServerProcess::spawn(command).expect("the demo starts"),
            folder,
        }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("demo")
    }

    fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("output")).unwrap()
    }

    /// Waits until `look` finds something.
    fn wait_for<T>(&mut self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(150);
        loop {
            // Asked first: what a demo did last must still be looked at.
            let ended = self.process.exited().is_some();
            if let Some(found) = look(self) {
                return found;
            }
            assert!(!ended && Instant::now() < deadline, "no {what}\n{}", self.output());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_for_output(&mut self, text: &str) {
        self.wait_for(text, |demo| demo.output().contains(text).then_some(()));
    }

    /// Waits for the end. Fails if a server, or PostgreSQL's data, is still there.
    fn end(&mut self) -> (Option<i32>, String) {
        let status = self.process.wait(Duration::from_secs(150));
        let output = self.output();
        let status = status.unwrap_or_else(|| panic!("the demo does not end\n{output}"));
        let data = between(&output, "data in ", "\n");
        assert!(!Path::new(data).exists(), "{data} is still there");
        let own = [self.dir().display().to_string(), data.to_owned()];
        for entry in fs::read_dir("/proc").unwrap() {
            let entry = entry.unwrap().path();
            let command = fs::read(entry.join("cmdline")).unwrap_or_default();
            // PostgreSQL's workers have no path in their command line.
            let cwd = fs::read_link(entry.join("cwd")).unwrap_or_default();
            let seen = format!("{} in {}", String::from_utf8_lossy(&command), cwd.display());
            assert!(!own.iter().any(|path| seen.contains(path)), "still running: {seen}");
        }
        (status.code(), output)
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text
        .split_once(before)
        .unwrap_or_else(|| panic!("no `{before}` in\n{text}"));
    rest.split(after).next().unwrap()
}

/// The line about `table` in the proof.
fn proof_of<'a>(output: &'a str, table: &str) -> &'a str {
    let proof = between(output, "Source = target", "In quarantine");
    let line = proof.lines().find(|line| line.trim_start().starts_with(table));
    line.unwrap_or_else(|| panic!("no proof of {table} in\n{output}"))
}

fn check(project: &Path, flags: &[&str], environment: [(&str, &str); 3]) {
    let mut command = Command::new(MILLSTREAM);
    let output = command.arg("check").args(flags).arg(project).envs(environment).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_demo_proves_that_the_target_equals_its_sources() {
    let mut demo = Demo::start(&[]);
    let (code, output) = demo.end();
    assert_eq!(code, Some(0), "{output}");
    for (table, rows) in TABLES {
        let fields: Vec<&str> = proof_of(&output, table).split_whitespace().collect();
        assert_eq!(fields[1..3], [rows, rows], "{output}");
        assert_eq!(fields[3], fields[4], "{output}");
        assert_eq!(fields[5], "equal", "{output}");
    }
    assert!(proof_of(&output, "quarantine").ends_with("equal"), "{output}");
    let quarantine = between(&output, "In quarantine (14 rows)", "One query over the Parquet files");
    for reason in REASONS {
        assert!(quarantine.contains(reason), "no `{reason}` in\n{output}");
    }
    let seconds = output
        .lines()
        .filter(|line| line.trim_start().split(' ').nth(1) == Some("s"));
    assert!(seconds.count() > 10, "{output}");
    assert!(
        between(&output, "One query over", "Where it is").contains("revenue\n"),
        "{output}"
    );
    assert!(
        Path::new(between(&output, "Parquet files   ", "\n")).is_dir(),
        "{output}"
    );
    assert!(!output.contains('\x1b'), "{output}");
    // As promised, also beside other tests.
    let seconds: u32 = between(&output, "Done in ", " seconds").parse().unwrap();
    assert!(seconds < 60, "{output}");
}

#[test]
fn a_tampered_file_fails_the_proof_of_a_demo_that_is_kept_until_ctrl_c() {
    let mut demo = Demo::start(&["--keep"]);
    demo.wait_for("first copy of customers", remove_quiet_customer);
    demo.wait_for_output("until Ctrl-C");
    let output = demo.output();
    check_against_servers(&demo.dir(), &output);
    demo.process.signal("INT").unwrap();
    let (code, _) = demo.end();
    assert_eq!(code, Some(1), "{output}");
    assert!(proof_of(&output, "customers").ends_with("DIFFERENT"), "{output}");
    assert!(
        output.contains(&format!("only in the source {QUIET_CUSTOMER}\t")),
        "{output}"
    );
    assert!(proof_of(&output, "order_items").ends_with("equal"), "{output}");
    assert!(output.contains("THE TARGET DIFFERS"), "{output}");
}

/// Takes one row out of a committed file; `None` if it is in none yet.
fn remove_quiet_customer(demo: &Demo) -> Option<()> {
    let config = ParquetConfig::new(demo.dir().join("lake/shop").display().to_string());
    let committed = Runtime::new().unwrap().block_on(committed_files(&config, "customers"));
    for file in committed.ok()?.files {
        let path = demo.dir().join("lake/shop/customers").join(&file.path);
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap());
        let reader = reader.unwrap().build().unwrap();
        let tampered = path.with_extension("tampered");
        let mut writer = ArrowWriter::try_new(File::create(&tampered).unwrap(), reader.schema(), None).unwrap();
        let mut removed = None;
        for batch in reader {
            let batch = batch.unwrap();
            let keys = batch.column_by_name("customer_id").unwrap().as_primitive::<Int64Type>();
            let found = keys.values().iter().position(|key| *key == QUIET_CUSTOMER);
            let row = found.unwrap_or(batch.num_rows());
            writer.write(&batch.slice(0, row)).unwrap();
            if found.is_some() {
                writer.write(&batch.slice(row + 1, batch.num_rows() - row - 1)).unwrap();
                removed = Some(());
            }
        }
        writer.close().unwrap();
        if removed.is_some() {
            fs::rename(tampered, path).unwrap();
            return removed;
        }
        fs::remove_file(tampered).unwrap();
    }
    None
}

/// The example passes `millstream check` on the demo's own servers.
fn check_against_servers(dir: &Path, output: &str) {
    let url = between(output, "psql ", "\n").replace("//postgres:", "//millstream:");
    let lake = dir.join("lake").display().to_string();
    let brokers = between(output, "Kafka brokers: ", " ");
    check(
        &dir.join("shop"),
        &[],
        [("SHOP_URL", &url), ("KAFKA", brokers), ("LAKE", &lake)],
    );
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing_behind() {
    let mut demo = Demo::start(&[]);
    demo.wait_for_output("millstream run ");
    demo.process.signal("INT").unwrap();
    let (code, output) = demo.end();
    assert_eq!(code, Some(1), "{output}");
    assert!(output.ends_with("error: interrupted\n"), "{output}");
}

#[test]
fn the_example_passes_the_check_without_its_servers() {
    let example = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("examples/shop");
    let nowhere = [
        ("SHOP_URL", "postgres://millstream@localhost/shop"),
        ("KAFKA", "localhost:9092"),
        ("LAKE", "lake"),
    ];
    check(&example, &["--offline"], nowhere);
}
