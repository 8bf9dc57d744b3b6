-- Of tables nothing: `report_webhook` knows what is postponed.

SELECT 1;
