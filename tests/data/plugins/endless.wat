;; A plugin that never ends. endless.wasm is made of it:
;; wasm-tools parse endless.wat -o endless.wasm
(component
  (core module $module
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 16)
    (func (export "run") (param i32 i32) (result i32) (loop $again br $again) unreachable))
  (core instance $instance (instantiate $module))
  (alias core export $instance "memory" (core memory $memory))
  (alias core export $instance "realloc" (core func $realloc))
  (alias core export $instance "run" (core func $run))
  (func (export "run") (param "input" string) (result (result string (error string)))
    (canon lift (core func $run) (memory $memory) (realloc (core func $realloc)))))
