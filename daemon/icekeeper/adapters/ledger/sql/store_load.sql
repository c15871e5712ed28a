INSERT INTO maintenance_config_loads (load_id, loaded_at, host, loaded_by, settings_hash, changes, problems, actor, installation_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (load_id) DO NOTHING
