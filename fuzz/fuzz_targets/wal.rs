#![no_main]
//! See `coroner_fuzz::wal`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::wal::run(input);
});
