//! A thread's virtual machine: made when it is first needed, and again after it ran out of memory.
//!
//! The surprise: `lua/run.lua` drives every call. It catches errors and `ngx.exit`, so that one call from here runs all
//! functions of a script, and it swaps the tables of the request when a coroutine goes on.
use crate::api;
use crate::engine::Engine;
use crate::host::{Body, HOST, Host, Lent, Phase, State};
use crate::script::{Form, LuaError, Script};
use mlua::chunk::ChunkMode;
use mlua::{
    Function, HookTriggers, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Thread, Value, VmState,
    thread::ThreadStatus,
};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

/// What a call came to.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing was decided.
    Next,
    /// Something was said; the answer goes on with what other scripts of the request say.
    Begun { status: u16, body: Vec<u8> },
    /// The client is answered, with the usual page of the status where there is no body.
    Exit { status: u16, body: Option<Vec<u8>> },
    /// The script sleeps.
    Wait(Paused),
    /// It broke off; this was logged.
    Failed(LuaError),
}

/// A script that sleeps.
pub struct Paused {
    /// How long.
    pub seconds: f64,
    thread: Thread,
    machine: Rc<Machine>,
    name: String,
}

impl std::fmt::Debug for Paused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sleeps {} s", self.name, self.seconds)
    }
}

impl Paused {
    /// Goes on after the sleep.
    pub fn resume(self, host: &mut dyn Host) -> Outcome {
        let Paused { thread, machine, name, .. } = self;
        machine.refill();
        let returned = HOST.set(Lent(host), || thread.resume::<MultiValue>(()));
        machine.finish(&name, Some(thread), returned, None)
    }
}

thread_local! {
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
    static GENERATION: Cell<u64> = const { Cell::new(0) };
}

/// The chunk name of a `_meta.pre_function` (apisix/plugin.lua).
pub(crate) const PRE_FUNCTION: &str = "meta pre_function";
/// How many instructions pass between two looks at the bound.
const STEP: u64 = 10_000;

pub(crate) struct Machine {
    lua: Lua,
    generation: u64,
    engine: Arc<Engine>,
    execute: Function,
    evaluate: Function,
    render: Function,
    new_state: Function,
    loaded: RefCell<HashMap<u64, Loaded>>,
    left: Rc<Cell<u64>>,
}

/// A script as this machine compiled it.
struct Loaded {
    of: Weak<Script>,
    functions: Table,
    config: Value,
}

impl Machine {
    fn new(engine: &Arc<Engine>) -> mlua::Result<Machine> {
        let libs = StdLib::TABLE | StdLib::OS | StdLib::STRING | StdLib::MATH | StdLib::BIT | StdLib::JIT;
        // With `catch_rust_panics` on, `pcall` is LuaJIT's own, through which coroutines may yield.
        let lua = Lua::new_with(libs, LuaOptions::new().catch_rust_panics(true))?;
        let left = Rc::new(Cell::new(0));
        if engine.limits.instructions > 0 {
            lua.load("jit.off() jit.flush()").exec()?;
        }
        let parts = api::install(&lua, engine, &left)?;
        let generation = GENERATION.with(|g| {
            g.set(g.get() + 1);
            g.get()
        });
        lua.set_memory_limit(engine.limits.memory)?;
        if engine.limits.instructions > 0 {
            count(&lua, engine.limits.instructions, left.clone())?;
        }
        Ok(Machine {
            generation,
            engine: engine.clone(),
            execute: parts.get("execute")?,
            evaluate: parts.get("evaluate")?,
            render: parts.get("render")?,
            new_state: parts.get("new_state")?,
            loaded: RefCell::default(),
            left,
            lua,
        })
    }

    /// The machine of this thread.
    fn of_thread(engine: &Arc<Engine>) -> mlua::Result<Rc<Machine>> {
        let found = MACHINE.with(|m| m.borrow().clone());
        if let Some(machine) = found.filter(|m| Arc::ptr_eq(&m.engine, engine)) {
            return Ok(machine);
        }
        let machine = Rc::new(Machine::new(engine)?);
        MACHINE.with(|m| *m.borrow_mut() = Some(machine.clone()));
        Ok(machine)
    }

    fn refill(&self) {
        self.left.set(self.engine.limits.instructions);
    }

    /// Lua's error in its own words; a machine out of memory is given up.
    fn say(&self, error: &mlua::Error) -> LuaError {
        if is_memory(error) {
            MACHINE.with(|m| *m.borrow_mut() = None);
            return LuaError(format!("not enough memory: the limit is {} bytes", self.engine.limits.memory));
        }
        LuaError(message(error))
    }

    /// After a template ran out of memory: its garbage goes, and the machine only where that does not help. What scripts keep must
    /// not end with a large body of some client.
    fn recover(&self) -> String {
        let limit = self.engine.limits.memory;
        let collected = self.lua.gc_collect().and_then(|()| self.lua.gc_collect());
        if collected.is_err() || self.lua.used_memory() > limit / 2 {
            MACHINE.with(|m| *m.borrow_mut() = None);
        }
        format!("not enough memory: the limit is {limit} bytes")
    }

    fn compile(&self, name: &str, source: &[u8]) -> mlua::Result<Function> {
        self.lua.load(source).set_name(name).set_mode(ChunkMode::Text).into_function()
    }

    /// The functions and the configuration of a script, compiled once.
    fn load(&self, script: &Arc<Script>) -> mlua::Result<(Table, Value)> {
        if let Some(found) = self.loaded.borrow_mut().get_mut(&script.id) {
            if found.of.as_ptr() != Arc::as_ptr(script) {
                found.of = Arc::downgrade(script);
            }
            return Ok((found.functions.clone(), found.config.clone()));
        }
        let functions = self.lua.create_table()?;
        for (name, source) in &script.sources {
            let chunk = self.compile(name, source)?;
            // An object is made anew for every request (apisix/script.lua), and a template is run.
            let value = if matches!(script.form, Form::Object | Form::Template) {
                Value::Function(chunk)
            } else {
                chunk.call(())?
            };
            functions.push(value)?;
        }
        let config = api::to_lua(&self.lua, &script.config)?;
        let mut loaded = self.loaded.borrow_mut();
        loaded.retain(|_, l| l.of.strong_count() > 0);
        let of = Arc::downgrade(script);
        loaded.insert(script.id, Loaded { of, functions: functions.clone(), config: config.clone() });
        Ok((functions, config))
    }

    fn tables(&self, host: &mut dyn Host) -> mlua::Result<Table> {
        let known = |s: &mut State| s.0.as_ref().filter(|(g, _)| *g == self.generation).map(|(_, t)| t.clone());
        if let Some(tables) = host.state().and_then(known) {
            return Ok(tables);
        }
        let tables: Table = self.new_state.call(())?;
        if let Some(state) = host.state() {
            state.0 = Some((self.generation, tables.clone()));
        }
        Ok(tables)
    }

    fn run(
        self: &Rc<Self>,
        script: &Arc<Script>,
        phase: Phase,
        host: &mut dyn Host,
        body: Option<&mut Body>,
    ) -> mlua::Result<Outcome> {
        self.refill();
        let (functions, config) = self.load(script)?;
        let tables = self.tables(host)?;
        let form = match script.form {
            Form::Object => "object",
            Form::PreFunction => "pre_function",
            Form::Functions | Form::Predicate | Form::Template => "functions",
        };
        let piece = match &body {
            Some(body) => (Value::String(self.lua.create_string(&body.data)?), body.last),
            None => (Value::Nil, false),
        };
        let arguments = (tables, phase.as_str(), phase.nginx(), functions, config, form, piece.0, piece.1);
        if script.waits && phase.answers() {
            let thread = self.lua.create_thread(self.execute.clone())?;
            let returned = HOST.set(Lent(host), || thread.resume::<MultiValue>(arguments));
            return Ok(self.finish(&script.name, Some(thread), returned, body));
        }
        let returned = HOST.set(Lent(host), || self.execute.call::<MultiValue>(arguments));
        Ok(self.finish(&script.name, None, returned, body))
    }

    /// What `run.lua` returned, or yielded.
    fn finish(
        self: &Rc<Self>,
        name: &str,
        thread: Option<Thread>,
        returned: mlua::Result<MultiValue>,
        body: Option<&mut Body>,
    ) -> Outcome {
        let values = match returned {
            Ok(values) => values,
            Err(error) => return self.failed(name, &error),
        };
        if let Some(thread) = thread.filter(|t| t.status() == ThreadStatus::Resumable) {
            let seconds = values.front().and_then(api::number).unwrap_or(0.0);
            return Outcome::Wait(Paused { seconds, thread, machine: self.clone(), name: name.to_owned() });
        }
        let mut values = values.into_iter();
        let kind = values.next().and_then(|v| api::number(&v)).unwrap_or(0.0) as i64;
        let status = values.next().and_then(|v| api::number(&v)).unwrap_or(0.0) as i64;
        let text = match values.next() {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        if let (Some(body), Some(Value::String(piece))) = (body, values.next()) {
            body.data.clear();
            body.data.extend_from_slice(&piece.as_bytes());
            body.last = values.next().is_some_and(|v| v.as_boolean().unwrap_or(body.last));
        }
        let bytes = |text: LuaString| text.as_bytes().to_vec();
        match kind {
            1 => match u16::try_from(status) {
                Ok(status) if (100..=999).contains(&status) => Outcome::Exit { status, body: text.map(bytes) },
                _ => Outcome::Exit { status: 500, body: None },
            },
            3 => Outcome::Begun {
                status: u16::try_from(status).ok().filter(|s| (100..=999).contains(s)).unwrap_or(500),
                body: text.map(bytes).unwrap_or_default(),
            },
            2 => {
                let why = text.map(|t| t.to_string_lossy()).unwrap_or_default();
                if why.ends_with("not enough memory") {
                    MACHINE.with(|m| *m.borrow_mut() = None);
                }
                tracing::error!("{name}: {why}");
                Outcome::Failed(LuaError(why))
            }
            _ => Outcome::Next,
        }
    }

    fn failed(&self, name: &str, error: &mlua::Error) -> Outcome {
        let error = self.say(error);
        tracing::error!("{name}: {error}");
        Outcome::Failed(error)
    }
}

/// Ends what runs too long.
fn count(lua: &Lua, limit: u64, left: Rc<Cell<u64>>) -> mlua::Result<()> {
    let step = STEP.min(limit);
    let every = HookTriggers::new().every_nth_instruction(u32::try_from(step).unwrap_or(u32::MAX));
    lua.set_global_hook(every, move |_, _| {
        let rest = left.get().saturating_sub(step);
        left.set(rest);
        if rest == 0 {
            return Err(mlua::Error::runtime(format!("instruction limit of {limit} reached")));
        }
        Ok(VmState::Continue)
    })
}

fn is_memory(error: &mlua::Error) -> bool {
    match error {
        mlua::Error::MemoryError(_) => true,
        mlua::Error::CallbackError { cause, .. } => is_memory(cause),
        _ => false,
    }
}

/// The message alone, as Lua has it.
pub(crate) fn message(error: &mlua::Error) -> String {
    match error {
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => {
            message.split("\nstack traceback:").next().unwrap_or(message).to_owned()
        }
        mlua::Error::CallbackError { cause, .. } => message(cause),
        other => other.to_string(),
    }
}

/// Runs a script in a phase. `body` is the piece of the response's body in `body_filter`.
pub fn execute(script: &Arc<Script>, phase: Phase, host: &mut dyn Host, body: Option<&mut Body>) -> Outcome {
    let machine = match Machine::of_thread(&script.engine) {
        Ok(machine) => machine,
        Err(error) => {
            let error = LuaError(message(&error));
            tracing::error!("{}: {error}", script.name);
            return Outcome::Failed(error);
        }
    };
    match machine.run(script, phase, host, body) {
        Ok(outcome) => outcome,
        Err(error) => machine.failed(&script.name, &error),
    }
}

/// What a template is rendered from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Input<'a> {
    /// How the body is read: `xml`, `json`, `encoded`, `args` (the query) or `multipart`; `None`: not at all.
    pub format: Option<&'static str>,
    pub body: Option<&'a [u8]>,
    pub content_type: Option<&'a [u8]>,
}

/// Why a template gives no text; Lua's or the decoder's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    #[error("body decode: {0}")]
    Decode(String),
    #[error("template compile: {0}")]
    Compile(String),
    #[error("template rendering: {0}")]
    Render(String),
}

/// Renders a template ([`Form::Template`]).
pub fn render(
    script: &Arc<Script>,
    phase: Phase,
    host: &mut dyn Host,
    input: Input<'_>,
) -> Result<Vec<u8>, RenderError> {
    let machine = Machine::of_thread(&script.engine).map_err(|e| RenderError::Render(message(&e)))?;
    let failed = |e: mlua::Error| RenderError::Render(if is_memory(&e) { machine.recover() } else { message(&e) });
    machine.refill();
    let (list, why) = match machine.load(script) {
        Ok((list, _)) => (Some(list), None),
        Err(error) if is_memory(&error) => return Err(failed(error)),
        Err(error) => (None, Some(message(&error))),
    };
    let tables = machine.tables(host).map_err(failed)?;
    let string = |bytes: Option<&[u8]>| bytes.map(|b| machine.lua.create_string(b)).transpose().map_err(failed);
    let (body, kind) = (string(input.body)?, string(input.content_type)?);
    let arguments = (tables, phase.as_str(), phase.nginx(), list, why, input.format, body, kind);
    let (code, text) = HOST.set(Lent(host), || machine.render.call::<(f64, LuaString)>(arguments)).map_err(failed)?;
    if code == 0.0 {
        return Ok(text.as_bytes().to_vec());
    }
    let mut reason = text.to_string_lossy();
    if reason.ends_with("not enough memory") {
        drop(text);
        reason = machine.recover();
    }
    Err(match code as i64 {
        1 => RenderError::Decode(reason),
        2 => RenderError::Compile(reason),
        _ => RenderError::Render(reason),
    })
}

/// Asks a predicate. An error is logged; then it does not hold.
pub fn evaluate(script: &Arc<Script>, host: &mut dyn Host) -> bool {
    let mut ask = |machine: &Rc<Machine>| -> mlua::Result<bool> {
        machine.refill();
        let (functions, _) = machine.load(script)?;
        let tables = machine.tables(host)?;
        HOST.set(Lent(host), || machine.evaluate.call::<bool>((tables, functions)))
    };
    let machine = Machine::of_thread(&script.engine);
    let answer = machine.map_err(|e| LuaError(message(&e))).and_then(|m| ask(&m).map_err(|e| m.say(&e)));
    answer.unwrap_or_else(|error| {
        tracing::error!("{}: {error}", script.name);
        false
    })
}

/// See [`crate::check`].
pub(crate) fn check(engine: &Arc<Engine>, form: Form, source: &str) -> Result<(), LuaError> {
    let machine = Machine::of_thread(engine).map_err(|e| LuaError(message(&e)))?;
    machine.refill();
    let text = match form {
        Form::Predicate => format!("return {source}"),
        Form::Template => String::from_utf8_lossy(&crate::template::source(source.as_bytes())).into_owned(),
        _ => source.to_owned(),
    };
    let load = |prefix: &str| {
        let name = if form == Form::PreFunction { PRE_FUNCTION } else { &text };
        machine.compile(name, text.as_bytes()).map_err(|e| LuaError(format!("{prefix}{}", machine.say(&e))))
    };
    let (prefix, failed, expected, wrong) = match form {
        Form::Functions => {
            ("failed to loadstring: ", "pcall error: ", "function", "only accept Lua function, the input code type is ")
        }
        Form::PreFunction | Form::Template => ("", "", "", ""),
        Form::Predicate => {
            ("failed to load 'filter_func' string: ", "", "function", "'filter_func' should be a function")
        }
        Form::Object => ("failed to load 'script' string: ", "", "table", "'script' should be a Lua object"),
    };
    let chunk = load(prefix)?;
    if matches!(form, Form::PreFunction | Form::Template) {
        return Ok(());
    }
    let value: Value = chunk.call(()).map_err(|e| LuaError(format!("{failed}{}", machine.say(&e))))?;
    if value.type_name() == expected {
        return Ok(());
    }
    Err(LuaError(match form {
        Form::Functions => format!("{wrong}{}", value.type_name()),
        _ => wrong.to_owned(),
    }))
}
