"""DiLoCo over a cluster: members that train, a coordinator that has them agree, Ray underneath.

A whole fleet without database or job, as benches and tests run it:

    class Source:                              # picklable; imported by the workers, too
        def open(self) -> Workload: ...

    ray.init(address=...)
    result = await run_fleet(Source(), DilocoConfig(...), log)

`fleet.run_fleet` places the workers; `log` keeps the rounds (`RoundLog` in `parties`).
`on_progress` sees each member's node, process id, state and bytes every second, `on_round` each
committed round. The result has the rounds, the events and, for each round, the digest that every
member reported.
"""
