-- Rendered by the config agent. Run by the bootstrap member, and by each member when it has changed; can be run again.
-- Who asks for HAProxy whether the member is synced: needs no privilege.
CREATE USER IF NOT EXISTS 'galera-check'@'localhost' IDENTIFIED VIA unix_socket;
-- Who copies the data for a joiner ({{galera.sst_method}}).
CREATE USER IF NOT EXISTS 'galera_sst'@'localhost' IDENTIFIED BY '{{secrets.galera_sst_password}}';
ALTER USER 'galera_sst'@'localhost' IDENTIFIED BY '{{secrets.galera_sst_password}}';
GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR ON *.* TO 'galera_sst'@'localhost';
SET GLOBAL wsrep_sst_auth = 'galera_sst:{{secrets.galera_sst_password}}';
CREATE DATABASE IF NOT EXISTS `{{galera.app_database}}`;
CREATE USER IF NOT EXISTS '{{galera.app_user}}'@'%' IDENTIFIED BY '{{secrets.galera_app_password}}';
ALTER USER '{{galera.app_user}}'@'%' IDENTIFIED BY '{{secrets.galera_app_password}}';
GRANT ALL PRIVILEGES ON `{{galera.app_database}}`.* TO '{{galera.app_user}}'@'%';
{{#galera.admin}}
CREATE USER IF NOT EXISTS 'cloud_admin'@'%' IDENTIFIED BY '{{secrets.galera_admin_password}}';
ALTER USER 'cloud_admin'@'%' IDENTIFIED BY '{{secrets.galera_admin_password}}';
GRANT ALL PRIVILEGES ON *.* TO 'cloud_admin'@'%' WITH GRANT OPTION;
{{/galera.admin}}
{{^galera.admin}}
DROP USER IF EXISTS 'cloud_admin'@'%';
{{/galera.admin}}
