"""The tier `wasm`: Python as a WebAssembly program, which has no way out but what its host hands it."""
