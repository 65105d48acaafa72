-- Rendered by the config agent. Run by the bootstrap member, and by each member when it has changed; can be run again.
CREATE DATABASE IF NOT EXISTS `{{galera.app_database}}`;
CREATE USER IF NOT EXISTS '{{galera.app_user}}'@'%' IDENTIFIED BY '{{secrets.galera_app_password}}';
ALTER USER '{{galera.app_user}}'@'%' IDENTIFIED BY '{{secrets.galera_app_password}}';
GRANT ALL PRIVILEGES ON `{{galera.app_database}}`.* TO '{{galera.app_user}}'@'%';
