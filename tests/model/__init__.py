"""An explicit-state model of the coordination protocol. `python -m tests.model --help`; `make model`.

| module       | what it is                                                     |
|--------------|----------------------------------------------------------------|
| `states`     | what there is: runs, workers, one thread                       |
| `weaknesses` | the guards, each of which may be taken away                    |
| `store`      | transactions: what the store does, all or nothing              |
| `steps`      | what may happen next                                           |
| `invariants` | what must never be                                             |
| `exploration`| every reachable state, and the shortest way to a wrong one     |
| `scenarios`  | configurations: which runs, and what may go wrong              |

It stands alone from the product's code on purpose: it checks the design, not the code.
"""
