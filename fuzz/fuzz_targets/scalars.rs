#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| millstream_postgres::fuzzing::scalars(data));
