-- That `task` is of the installation that follows.
(SELECT installation_id FROM maintenance_runs WHERE run_id = task.run_id) =
