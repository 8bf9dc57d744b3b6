-- `beat` and `retire` know a registration from another one that has its epoch.
SELECT 1;
