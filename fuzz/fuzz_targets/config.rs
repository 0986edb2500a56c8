#![no_main]
//! See `coroner_fuzz::config`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::config::run(input);
});
