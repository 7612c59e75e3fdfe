"""The rules' home: adapters over Redis or Valkey, the key names, and the Lua scripts that decide."""
