#![no_main]
//! See `coroner_fuzz::jolokia`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::jolokia::run(input);
});
