//! Compiles the call paths that must keep frame pointers down to the syscall instruction.

fn main() {
    println!("cargo::rerun-if-changed=c/paths.c");
    println!("cargo::rerun-if-changed=c/syscall.h");
    cc::Build::new()
        .file("c/paths.c")
        .opt_level(1)
        .debug(true)
        .force_frame_pointer(true)
        .flag("-mno-omit-leaf-frame-pointer")
        .flag("-fno-optimize-sibling-calls")
        .compile("paths");
}
