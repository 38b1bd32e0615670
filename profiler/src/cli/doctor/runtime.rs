//! Runtimes that make code at run time. In: the modules of a process and its command line. Out: how to get names of it.

/// A runtime, and how it is made to tell the names of the code it makes.
#[derive(Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Its name.
    pub name: &'static str,
    /// How a module that gives it away begins.
    module: &'static str,
    /// What on the command line makes it write names from the start.
    switch: Option<&'static str>,
    /// What to do.
    remedy: &'static str,
    /// What keeps frame pointers in the code it makes, and how it is switched on; `None` where it keeps them anyway.
    pub frame_pointers: Option<&'static str>,
}

const RUNTIMES: [Runtime; 6] = [
    Runtime {
        name: "JVM",
        module: "libjvm.so",
        switch: None,
        remedy: "run `jcmd PID Compiler.perfmap` (JDK 17 and newer) at any time before the recording ends: code sampled \
                 earlier gets its names, too",
        frame_pointers: Some("-XX:+PreserveFramePointer"),
    },
    Runtime {
        name: "Node.js",
        module: "node",
        switch: Some("--perf-basic-prof"),
        remedy: "start it with `node --perf-basic-prof` (or NODE_OPTIONS=--perf-basic-prof)",
        frame_pointers: None,
    },
    Runtime {
        name: "CPython",
        module: "python3",
        switch: Some("perf"),
        remedy: "for names of Python functions start it with `python -X perf` or PYTHONPERFSUPPORT=1 (3.12 and newer)",
        frame_pointers: None,
    },
    Runtime {
        name: "CPython",
        module: "libpython3",
        switch: Some("perf"),
        remedy: "for names of Python functions start it with `python -X perf` or PYTHONPERFSUPPORT=1 (3.12 and newer)",
        frame_pointers: None,
    },
    Runtime {
        name: ".NET",
        module: "libcoreclr.so",
        switch: None,
        remedy: "start it with DOTNET_PerfMapEnabled=1",
        frame_pointers: None,
    },
    Runtime {
        name: "Erlang",
        module: "beam.smp",
        switch: Some("+JPperf"),
        remedy: "start it with `erl +JPperf true`",
        frame_pointers: None,
    },
];

impl Runtime {
    /// The runtime that a process runs, by its modules.
    pub fn of(modules: &[&str]) -> Option<&'static Self> {
        RUNTIMES.iter().find(|runtime| modules.iter().any(|module| module.starts_with(runtime.module)))
    }

    /// What to do for names, with the process's own ids in it.
    pub fn remedy(&self, pid: u32, arguments: &[String]) -> String {
        let remedy = self.remedy.replace("PID", &pid.to_string());
        match self.frame_pointers.filter(|flag| !arguments.iter().any(|argument| argument == flag)) {
            Some(flag) => format!("{remedy}; start it with {flag}, else stacks end in compiled code"),
            None => remedy,
        }
    }

    /// Whether the process was started so that it writes names.
    pub fn is_asked(&self, arguments: &[String]) -> bool {
        self.switch.is_some_and(|switch| arguments.iter().any(|argument| argument.starts_with(switch)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_known_by_its_modules() {
        let of = |modules: &[&str]| Runtime::of(modules).map(|runtime| runtime.name);
        assert_eq!(of(&["java", "libc.so.6", "libjvm.so"]), Some("JVM"));
        assert_eq!(of(&["python3.12", "libc.so.6"]), Some("CPython"));
        assert_eq!(of(&["redis-server", "libc.so.6"]), None);
    }

    #[test]
    fn the_remedy_names_the_process_and_the_flag_that_is_missing() {
        let Some(jvm) = Runtime::of(&["libjvm.so"]) else { panic!("not known") };
        let remedy = jvm.remedy(42, &[]);
        assert!(remedy.contains("jcmd 42 Compiler.perfmap") && remedy.contains("PreserveFramePointer"), "{remedy}");
        assert!(!jvm.remedy(42, &["-XX:+PreserveFramePointer".into()]).contains("PreserveFramePointer"));
    }
}
