"""An explicit-state model of the coordination protocol. `python -m tests.model --help`; `make model`.

| module       | what it is                                                     |
|--------------|----------------------------------------------------------------|
| `states`     | a state: runs, workers, one thread                             |
| `weaknesses` | the guards, each of which may be removed                       |
| `store`      | the store's transactions, each atomic                          |
| `steps`      | the steps that are possible in a state                         |
| `invariants` | what holds in every state and in every step                    |
| `exploration`| visits every reachable state; shortest trace to a violation    |
| `scenarios`  | configurations: the runs, and the faults that may happen       |

It does not use the product's code on purpose: it checks the design, not the code.
"""
