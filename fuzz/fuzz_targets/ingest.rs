#![no_main]
//! See `coroner_fuzz::ingest`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::ingest::run(input);
});
